// Build the page into ../src/dct_seg/app/static, with hashes of its sources, so that a test without Node.js detects a stale build.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { defineConfig, type Plugin } from "vite";

const ROOT = import.meta.dirname;
const STATIC = resolve(ROOT, "../src/dct_seg/app/static");
const SOURCES = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "src"];

/** Hash the named files and folders below `folder`: hex SHA-256 by path. */
function hashes(folder: string, names: string[]): Record<string, string> {
  const found: Record<string, string> = {};
  const visit = (path: string): void => {
    const full = join(folder, path);
    try {
      for (const name of readdirSync(full)) visit(`${path}/${name}`);
    } catch {
      found[path] = createHash("sha256").update(readFileSync(full)).digest("hex");
    }
  };
  names.forEach(visit);
  return Object.fromEntries(Object.entries(found).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function stamp(): Plugin {
  return {
    name: "stamp",
    apply: "build",
    closeBundle() {
      const built = { sources: hashes(ROOT, SOURCES), built: hashes(STATIC, ["index.html", "assets"]) };
      writeFileSync(join(STATIC, "build.json"), `${JSON.stringify(built, null, 2)}\n`);
    },
  };
}

export default defineConfig({
  base: "./", // the page works behind a proxy that puts it into a folder
  build: {
    outDir: STATIC,
    emptyOutDir: true,
    license: { fileName: "licenses.md" }, // of the packages in the bundle
    assetsInlineLimit: 0,
    target: "es2022",
    modulePreload: { polyfill: false },
  },
  server: { proxy: { "/api": "http://127.0.0.1:8000" } },
  plugins: [stamp()],
});
