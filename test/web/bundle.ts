import assert from 'node:assert/strict';
import { gzipSync } from 'node:zlib';
import { build } from 'vite';

/** Where a {@link bundle} imports onnxruntime-web from. */
export const ONNXRUNTIME_PATH = '/ort/';

/** One file of a bundle. */
export interface BundleFile {
  readonly name: string;
  /** Paths of the modules that something of is left in the file. */
  readonly modules: readonly string[];
  /** Names of the files that it needs, and of those that it fetches when it wants them. */
  readonly imports: readonly string[];
  readonly dynamicImports: readonly string[];
  readonly compressedBytes: number;
}

/** Bundles a module for browsers, as a user of the package would, leaving onnxruntime-web out. */
export async function bundle(entry: string, folder: string): Promise<readonly BundleFile[]> {
  const built = await build({
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
  assert('output' in built);
  return built.output.flatMap(file => {
    if (file.type !== 'chunk') return [];
    const modules = Object.entries(file.modules).filter(([, { renderedLength }]) => renderedLength > 0);
    return [
      {
        name: file.fileName,
        modules: modules.map(([path]) => path),
        imports: file.imports,
        dynamicImports: file.dynamicImports,
        compressedBytes: gzipSync(file.code).length,
      },
    ];
  });
}

/** Compressed bytes of some files and of all that they need. */
export function loadedBytes(files: readonly BundleFile[], names: readonly string[]): number {
  const loaded = new Set(names);
  for (const name of loaded) {
    for (const needed of files.find(file => file.name === name)?.imports ?? []) loaded.add(needed);
  }
  return files.reduce((sum, file) => sum + (loaded.has(file.name) ? file.compressedBytes : 0), 0);
}
