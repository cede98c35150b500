import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The session addon (custom-ops/native/addon.cc). Every function throws Error with the runtime's message. */
export interface Binding {
  /** Loads the ONNX Runtime library; to be called before anything else. Returns its version. */
  init(library: string): string;
  /** The operators of a library; the same objects on every call. */
  loadOperators(library: string): NativeOperator[];
  /**
   * @param model a path, or the bytes of a model
   * @param operators `op` of the operators to register
   */
  createSession(
    model: string | Uint8Array,
    options: NativeSessionOptions,
    operators: readonly OperatorHandle[],
  ): Promise<NativeSession>;
  run(
    session: SessionHandle,
    inputs: NativeFeeds,
    outputs: NativeFetches,
    options: NativeRunOptions | undefined,
  ): Promise<NativeResults>;
  /** The same on the calling thread. */
  runSync(
    session: SessionHandle,
    inputs: NativeFeeds,
    outputs: NativeFetches,
    options: NativeRunOptions | undefined,
  ): NativeResults;
  /**
   * Copies a tensor to GPU `device`.
   * @throws Error without the CUDA operators
   */
  upload(device: number, type: number, dims: readonly number[], data: ArrayBufferView): Promise<DeviceHandle>;
  /** Fills `data`, which has the size of the tensor. */
  download(tensor: DeviceHandle, data: ArrayBufferView): Promise<void>;
  /** Gives the memory back before the handle is collected. */
  dispose(tensor: DeviceHandle): void;
  /** Ends profiling; returns the file. */
  endProfiling(session: SessionHandle): string;
  /** Gives the session up; runs in flight finish first. */
  release(session: SessionHandle): void;
}

/** Opaque to JavaScript. */
export interface OperatorHandle {
  readonly operatorHandle: unique symbol;
}
export interface SessionHandle {
  readonly sessionHandle: unique symbol;
}
/** A tensor in GPU memory. */
export interface DeviceHandle {
  readonly deviceHandle: unique symbol;
}

export interface NativeOperator {
  readonly name: string;
  readonly executionProvider: string;
  /** TensorProto.DataType of the first input. */
  readonly type: number;
  readonly op: OperatorHandle;
}

/** Session options by number and string, the way ONNX Runtime's C API takes them; lists alternate key and value. */
export interface NativeSessionOptions {
  intraOpNumThreads?: number;
  interOpNumThreads?: number;
  graphOptimizationLevel?: number;
  executionMode?: number;
  logSeverityLevel?: number;
  logVerbosityLevel?: number;
  logId?: string;
  optimizedModelFilePath?: string;
  profileFilePrefix?: string;
  disableCpuMemArena?: true;
  disableMemPattern?: true;
  freeDimensions?: (string | number)[];
  config?: string[];
  providers?: { readonly name: string; readonly settings: string[] }[];
  externalData?: (string | Uint8Array)[];
  /** The GPU of the CUDA provider, where that captures graphs. */
  graphDevice?: number;
}

export interface NativeRunOptions {
  logSeverityLevel?: number;
  logVerbosityLevel?: number;
  tag?: string;
  config?: string[];
}

export interface NativeSession {
  readonly handle: SessionHandle;
  readonly inputs: readonly NativeValue[];
  readonly outputs: readonly NativeValue[];
}

/** `type` is a TensorProto.DataType, 0 for what is no tensor; unknown dims are symbols, possibly empty. */
export interface NativeValue {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly (number | string)[];
}

export type NativeData = ArrayBufferView | readonly string[];
/** index of the input, type, dims, data, and so on. */
export type NativeFeeds = (number | readonly number[] | NativeData | DeviceHandle)[];
/**
 * Indices of outputs; with the number of a GPU where the output is to stay there, with type, dims and memory where the
 * caller provides it.
 */
export type NativeFetches = (
  | number
  | [number, number]
  | [number, number, readonly number[], NativeData | DeviceHandle]
)[];
/** Type, dims and data of each output; null where the caller provided the memory. */
export type NativeResults = (
  | [number, readonly number[], ArrayBuffer | readonly string[] | DeviceHandle]
  | null
)[];

/** Where the native parts are, or why they are not used. */
export type NativeParts =
  | { readonly ok: true; readonly binding: Binding; readonly operators: readonly NativeOperator[] }
  | { readonly ok: false; readonly reason: string };

const require = createRequire(import.meta.url);

let loaded: Extract<NativeParts, { ok: true }> | undefined;

/** Loads addon and operators once they are there. */
export function nativeParts(): NativeParts {
  if (loaded) return loaded;
  const parts = load();
  if (parts.ok) loaded = parts;
  return parts;
}

function load(): NativeParts {
  if (process.env.ONNX_REWRITE_NATIVE === 'none') {
    return { ok: false, reason: 'ONNX_REWRITE_NATIVE is set to none' };
  }
  const folder = nativeFolder();
  if (folder === null) {
    return {
      ok: false,
      reason: `no native build for ${process.platform}-${process.arch}; \`npm run build:native\` in the package makes one`,
    };
  }
  try {
    const binding = require(join(folder, 'onnxrewrite.node')) as Binding;
    binding.init(onnxruntimeLibrary());
    const operators = nativeLibraries().flatMap(library => binding.loadOperators(library));
    return { ok: true, binding, operators };
  } catch (error) {
    return { ok: false, reason: `the native build does not load: ${(error as Error).message}` };
  }
}

/** The libraries with operators that are there: that of the CPU first, which every ONNX Runtime can load. */
export function nativeLibraries(): string[] {
  const folder = nativeFolder();
  if (folder === null) return [];
  const extension = process.platform === 'darwin' ? 'dylib' : 'so';
  return ['onnxrewrite_ops', 'onnxrewrite_ops_cuda']
    .map(name => join(folder, `lib${name}.${extension}`))
    .filter(existsSync);
}

/** The folder that ONNX_REWRITE_NATIVE names; without it a local build, then what was shipped. */
function nativeFolder(): string | null {
  const override = process.env.ONNX_REWRITE_NATIVE;
  const root = packageRoot();
  const candidates = override
    ? [override]
    : [
        join(root, 'custom-ops', 'native', 'build', 'Release'),
        join(root, 'prebuilds', `${process.platform}-${process.arch}`),
      ];
  return candidates.find(folder => existsSync(join(folder, 'onnxrewrite.node'))) ?? null;
}

/** The folder of the nearest package.json above this module, wherever it was compiled to. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json')) && dirname(folder) !== folder) folder = dirname(folder);
  return folder;
}

/** The library inside onnxruntime-node: one ONNX Runtime, and one environment, for its sessions and ours. */
function onnxruntimeLibrary(): string {
  const bin = join(dirname(require.resolve('onnxruntime-node/package.json')), 'bin');
  const folders = readdirSync(bin).map(version => join(bin, version, process.platform, process.arch));
  for (const folder of folders.filter(existsSync)) {
    const library = readdirSync(folder).find(name => /^libonnxruntime\.(so\.\d+|\d+\.dylib)$/.test(name));
    if (library) return join(folder, library);
  }
  throw new Error(`onnxruntime-node has no library for ${process.platform}-${process.arch}`);
}
