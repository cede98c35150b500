import { readFileSync } from 'node:fs';
import type { InferenceSession } from 'onnxruntime-node';
import { InputError } from '../../../rewriter/errors.js';
import type { NativeRunOptions, NativeSessionOptions } from './binding.js';

type SessionOptions = InferenceSession.SessionOptions;
type ProviderConfig = InferenceSession.ExecutionProviderConfig;

const OPTIMIZATION_LEVELS = { disabled: 0, basic: 1, extended: 2, layout: 3, all: 99 } as const;
const EXECUTION_MODES = { sequential: 0, parallel: 1 } as const;
const DEFAULT_PROFILE_PREFIX = 'onnxruntime_profile_';

/** ONNX Runtime's names of execution providers, by onnxruntime-node's. */
const PROVIDERS: Readonly<Record<string, string>> = {
  cuda: 'CUDA',
  coreml: 'CoreML',
  qnn: 'QNN',
  webgpu: 'WebGPU',
  xnnpack: 'XNNPACK',
};

/** Execution providers of a session, in order of preference, without the CPU that always comes last. */
export function accelerators(options: SessionOptions): ProviderConfig[] {
  return (options.executionProviders ?? []).filter(provider => providerName(provider) !== 'cpu');
}

export function providerName(provider: ProviderConfig): string {
  return typeof provider === 'string' ? provider : provider.name;
}

/** Number of the GPU that a session's CUDA provider uses; undefined for a session without that provider. */
export function cudaDevice(options: SessionOptions): number | undefined {
  const provider = accelerators(options).find(entry => providerName(entry) === 'cuda');
  if (provider === undefined) return undefined;
  return (typeof provider === 'object' && 'deviceId' in provider ? provider.deviceId : undefined) ?? 0;
}

/**
 * Number of the GPU whose runs are to be captured as CUDA graphs, by `enableGraphCapture` or the provider's own
 * `enableCudaGraph`; undefined for none.
 */
export function graphDevice(options: SessionOptions): number | undefined {
  const captures = accelerators(options).some(
    provider =>
      providerName(provider) === 'cuda' &&
      (options.enableGraphCapture === true ||
        (typeof provider === 'object' &&
          'enableCudaGraph' in provider &&
          ['true', '1'].includes(String(provider.enableCudaGraph)))),
  );
  return captures ? cudaDevice(options) : undefined;
}

/** Outputs that `preferredOutputLocation` leaves on the GPU. */
export function outputsOnGpu(options: SessionOptions, outputNames: readonly string[]): ReadonlySet<string> {
  const wanted = options.preferredOutputLocation;
  const locationOf = (name: string) => (typeof wanted === 'object' ? wanted[name] : wanted);
  return new Set(outputNames.filter(name => locationOf(name) === 'gpu-buffer'));
}

/**
 * Session options as onnxruntime-node understands them, for the addon.
 * @throws InputError for a value that means nothing
 */
export function toNative(options: SessionOptions): NativeSessionOptions {
  const native: NativeSessionOptions = { graphOptimizationLevel: OPTIMIZATION_LEVELS.all };
  for (const name of [
    'intraOpNumThreads',
    'interOpNumThreads',
    'logSeverityLevel',
    'logVerbosityLevel',
  ] as const) {
    const value = options[name];
    if (value === undefined) continue;
    if (!Number.isInteger(value) || value < 0) {
      throw new InputError(`session option ${name} is ${value}`, { remedy: 'Give a whole number from 0.' });
    }
    native[name] = value;
  }
  if (options.logId !== undefined) native.logId = options.logId;
  if (options.optimizedModelFilePath !== undefined) {
    native.optimizedModelFilePath = options.optimizedModelFilePath;
  }
  if (options.graphOptimizationLevel !== undefined) {
    native.graphOptimizationLevel = choice(
      'graphOptimizationLevel',
      OPTIMIZATION_LEVELS,
      options.graphOptimizationLevel,
    );
  }
  if (options.executionMode !== undefined) {
    native.executionMode = choice('executionMode', EXECUTION_MODES, options.executionMode);
  }
  if (options.enableProfiling) {
    native.profileFilePrefix = options.profileFilePrefix ?? DEFAULT_PROFILE_PREFIX;
  }
  if (options.enableCpuMemArena === false) native.disableCpuMemArena = true;
  if (options.enableMemPattern === false) native.disableMemPattern = true;
  if (options.freeDimensionOverrides) {
    native.freeDimensions = Object.entries(options.freeDimensionOverrides).flat();
  }
  if (options.extra) native.config = configEntries(options.extra);
  const providers = accelerators(options);
  if (providers.length > 0) native.providers = providers.map(toNativeProvider);
  const device = graphDevice(options);
  if (device !== undefined) {
    native.graphDevice = device;
    const cuda = native.providers?.find(({ name }) => name === PROVIDERS.cuda);
    cuda?.settings.push('enable_cuda_graph', '1');
  }
  const external = externalData(options);
  if (external.length > 0) native.externalData = external;
  return native;
}

/** Run options for the addon; undefined when there are none. */
export function toNativeRun(options: InferenceSession.RunOptions): NativeRunOptions | undefined {
  const native: NativeRunOptions = {};
  if (options.logSeverityLevel !== undefined) native.logSeverityLevel = options.logSeverityLevel;
  if (options.logVerbosityLevel !== undefined) native.logVerbosityLevel = options.logVerbosityLevel;
  if (options.tag !== undefined) native.tag = options.tag;
  if (options.extra) native.config = configEntries(options.extra);
  return Object.keys(native).length > 0 ? native : undefined;
}

function choice<T extends string>(name: string, values: Readonly<Record<T, number>>, value: T): number {
  if (Object.hasOwn(values, value)) return values[value];
  throw new InputError(`session option ${name} is "${value}"`, {
    remedy: `Use one of ${Object.keys(values).join(', ')}.`,
  });
}

/** `{ session: { use_x: '1' } }` as `['session.use_x', '1']`. */
function configEntries(extra: Readonly<Record<string, unknown>>, prefix = ''): string[] {
  return Object.entries(extra).flatMap(([name, value]) =>
    typeof value === 'object' && value !== null
      ? configEntries(value as Record<string, unknown>, `${prefix}${name}.`)
      : [`${prefix}${name}`, typeof value === 'boolean' ? String(Number(value)) : String(value)],
  );
}

/** Options of a provider become ONNX Runtime's by their names in snake case: `deviceId` is `device_id`. */
function toNativeProvider(provider: ProviderConfig): { name: string; settings: string[] } {
  const name = PROVIDERS[providerName(provider)];
  if (name === undefined) {
    throw new InputError(`execution provider "${providerName(provider)}" is not supported`, {
      remedy: `Use cpu or one of ${Object.keys(PROVIDERS).join(', ')}.`,
    });
  }
  const settings = typeof provider === 'string' ? [] : Object.entries(provider);
  return {
    name,
    settings: settings
      .filter(([key, value]) => key !== 'name' && value !== undefined)
      .flatMap(([key, value]) => [
        key.replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`),
        String(value),
      ]),
  };
}

/** External data that is given in memory or by path, under the location that the model names. */
function externalData(options: SessionOptions): (string | Uint8Array)[] {
  return (options.externalData ?? []).flatMap(file => {
    const { path, data } = typeof file === 'string' ? { path: file, data: file } : file;
    if (typeof data === 'string') return [path, readFileSync(data)];
    if (data instanceof Blob) {
      throw new InputError(`external data "${path}" is a Blob`, { remedy: 'Give its bytes or a path.' });
    }
    return [path, data instanceof Uint8Array ? data : new Uint8Array(data)];
  });
}
