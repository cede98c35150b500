import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { build } from 'vite';

/** Where a {@link bundle} imports onnxruntime-web from. */
export const ONNXRUNTIME_PATH = '/ort/';

/** Bundles a module for browsers, as a user of the package would, leaving onnxruntime-web out. */
export async function bundle(entry: string, folder: string): Promise<void> {
  await build({
    configFile: false,
    logLevel: 'error',
    build: {
      outDir: folder,
      modulePreload: false,
      rollupOptions: {
        input: entry,
        preserveEntrySignatures: 'strict',
        external: [/^onnxruntime-web/],
        output: {
          entryFileNames: 'bundle.js',
          paths: { 'onnxruntime-web/webgpu': `${ONNXRUNTIME_PATH}ort.webgpu.bundle.min.mjs` },
        },
      },
    },
  });
}

/** Compressed bytes of the scripts in a folder. */
export async function compressedBytes(folder: string): Promise<number> {
  let bytes = 0;
  for (const name of await readdir(folder)) {
    if (/\.m?js$/.test(name)) bytes += gzipSync(await readFile(join(folder, name))).length;
  }
  return bytes;
}
