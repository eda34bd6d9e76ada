// Build the page into dist. public/model contains the output of `dct-seg export` and is copied unchanged.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // works in any folder of a site
  build: { target: "es2022", assetsInlineLimit: 0, chunkSizeWarningLimit: 1000 },
});
