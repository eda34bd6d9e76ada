// Builds the page into dist. public/model holds what `dct-seg export` wrote; it is copied as it is.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // works in any folder of a site
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000 },
});
