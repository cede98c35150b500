import { type InferenceSession, type InferenceSessionHandler, Tensor } from 'onnxruntime-node';
import type {
  Binding,
  DeviceHandle,
  NativeData,
  NativeFeeds,
  NativeFetches,
  NativeOperator,
  NativeResults,
  NativeSession,
  NativeValue,
} from './binding.js';
import { cudaRefusal } from './cuda-provider.js';
import { dataTypeOf, typeName, viewOf } from './element-types.js';
import { deviceHandle, gpuTensor } from './gpu-tensor.js';
import {
  type CustomNode,
  chooseKernels,
  customNodes,
  type NodePlacement,
  placementsOf,
} from './placement.js';
import {
  accelerators,
  cudaDevice,
  outputsOnGpu,
  providerName,
  toNative,
  toNativeRun,
} from './session-options.js';

type Feeds = Parameters<InferenceSessionHandler['run']>[0];
type Fetches = Parameters<InferenceSessionHandler['run']>[1];
type Results = Awaited<ReturnType<InferenceSessionHandler['run']>>;

/** A session of the addon, in the form that onnxruntime-common gives to InferenceSession. */
export class NativeSessionHandler implements InferenceSessionHandler {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputMetadata: readonly InferenceSession.ValueMetadata[];
  readonly outputMetadata: readonly InferenceSession.ValueMetadata[];
  readonly #inputIndex: ReadonlyMap<string, number>;
  readonly #outputIndex: ReadonlyMap<string, number>;
  /** The GPU of a session on CUDA. */
  readonly #device: number | undefined;
  readonly #outputsOnGpu: ReadonlySet<string>;

  private constructor(
    private readonly binding: Binding,
    private readonly session: NativeSession,
    /** What computes each node of our domain. */
    readonly placement: readonly NodePlacement[],
    options: InferenceSession.SessionOptions,
  ) {
    this.inputNames = session.inputs.map(({ name }) => name);
    this.outputNames = session.outputs.map(({ name }) => name);
    this.inputMetadata = session.inputs.map(metadata);
    this.outputMetadata = session.outputs.map(metadata);
    this.#inputIndex = new Map(this.inputNames.map((name, index) => [name, index]));
    this.#outputIndex = new Map(this.outputNames.map((name, index) => [name, index]));
    this.#device = cudaDevice(options);
    this.#outputsOnGpu = outputsOnGpu(options, this.outputNames);
  }

  /**
   * Creates a session whose custom operators run natively where a kernel covers them. A kernel that refuses a
   * node while the session is created (element type, attributes) leaves all nodes of that operator to the
   * function body.
   * @throws Error with ONNX Runtime's message
   */
  static async create(
    binding: Binding,
    available: readonly NativeOperator[],
    model: string | Uint8Array,
    options: InferenceSession.SessionOptions,
  ): Promise<NativeSessionHandler> {
    const nodes = customNodes(model);
    const first = accelerators(options)[0];
    const choice = chooseKernels(nodes, available, first === undefined ? 'cpu' : providerName(first));
    const refusals = new Map(choice.refusals);
    let kernels = choice.kernels;
    const native = toNative(options);
    let refusal: unknown;
    for (;;) {
      try {
        const ops = kernels.map(({ op }) => op);
        const session = await binding.createSession(model, native, ops);
        return new NativeSessionHandler(binding, session, placementsOf(nodes, refusals), options);
      } catch (error) {
        const missing = cudaRefusal(error);
        if (missing) throw missing;
        refusal ??= error;
        if (kernels.length === 0) throw refusal;
        const { message } = error as Error;
        for (const name of blamed(message, kernels, nodes)) refusals.set(name, message);
        kernels = kernels.filter(({ name }) => !refusals.has(name));
      }
    }
  }

  async run(feeds: Feeds, fetches: Fetches, options: InferenceSession.RunOptions): Promise<Results> {
    const { inputs, outputs } = this.#arguments(feeds, fetches);
    return this.#results(
      fetches,
      await this.binding.run(this.session.handle, inputs, outputs, toNativeRun(options)),
    );
  }

  /** Like `run`, blocking the calling thread. */
  runSync(feeds: Feeds, fetches: Fetches, options: InferenceSession.RunOptions): Results {
    const { inputs, outputs } = this.#arguments(feeds, fetches);
    return this.#results(
      fetches,
      this.binding.runSync(this.session.handle, inputs, outputs, toNativeRun(options)),
    );
  }

  /**
   * A copy of a tensor in the memory of the session's GPU.
   * @throws Error when the session is not on CUDA
   */
  async upload(tensor: Tensor): Promise<Tensor> {
    if (this.#device === undefined) throw new Error('the session is not on CUDA');
    const data = tensor.data;
    if (!ArrayBuffer.isView(data)) throw new TypeError('strings cannot be on the GPU');
    const dataType = dataTypeOf(tensor.type);
    const handle = await this.binding.upload(this.#device, dataType, tensor.dims, data);
    return gpuTensor(this.binding, dataType, tensor.dims, handle);
  }

  async dispose(): Promise<void> {
    this.binding.release(this.session.handle);
  }

  /** Nothing to do: `enableProfiling` starts profiling when the session is created. */
  startProfiling(): void {}

  endProfiling(): void {
    this.binding.endProfiling(this.session.handle);
  }

  #arguments(feeds: Feeds, fetches: Fetches): { inputs: NativeFeeds; outputs: NativeFetches } {
    const inputs: NativeFeeds = [];
    for (const name in feeds) {
      const index = this.#inputIndex.get(name);
      if (index !== undefined) inputs.push(index, ...describe(name, feeds[name]));
    }
    const outputs: NativeFetches = [];
    for (const name in fetches) {
      const index = this.#outputIndex.get(name);
      if (index === undefined) throw new RangeError(`'fetches' contains invalid output name: ${name}.`);
      const given = fetches[name];
      if (given) outputs.push([index, ...describe(name, given)]);
      else if (this.#device !== undefined && this.#outputsOnGpu.has(name))
        outputs.push([index, this.#device]);
      else outputs.push(index);
    }
    return { inputs, outputs };
  }

  #results(fetches: Fetches, natives: NativeResults): Results {
    const results: Results = {};
    let n = 0;
    for (const name in fetches) {
      const native = natives[n++];
      results[name] = native ? this.#tensorOf(...native) : fetches[name]!;
    }
    return results;
  }

  #tensorOf(
    dataType: number,
    dims: readonly number[],
    data: ArrayBuffer | readonly string[] | DeviceHandle,
  ): Tensor {
    if (data instanceof ArrayBuffer) {
      return new Tensor(typeName(dataType), viewOf(dataType, data) as Tensor.DataType, dims);
    }
    if (isStrings(data)) return new Tensor(typeName(dataType), data as Tensor.DataType, dims);
    return gpuTensor(this.binding, dataType, dims, data);
  }
}

/** Operators that an error names, or whose nodes it names; all of them when it names none. */
function blamed(
  message: string,
  kernels: readonly NativeOperator[],
  nodes: readonly CustomNode[],
): readonly string[] {
  const names = [...new Set(kernels.map(({ name }) => name))];
  const named = names.filter(
    name =>
      message.includes(name) ||
      nodes.some(({ node, operator }) => operator === name && message.includes(node)),
  );
  return named.length > 0 ? named : names;
}

function metadata({ name, type, shape }: NativeValue): InferenceSession.ValueMetadata {
  if (type === 0) return { name, isTensor: false };
  return { name, isTensor: true, type: typeName(type), shape };
}

/** Type, dims and data of a tensor on the CPU, or on the GPU through one of our sessions. */
function describe(name: string, value: unknown): [number, readonly number[], NativeData | DeviceHandle] {
  if (!(value instanceof Tensor)) throw new TypeError(`"${name}" is not a Tensor`);
  const handle = deviceHandle(value);
  if (handle) return [dataTypeOf(value.type), value.dims, handle];
  if (value.location !== 'cpu' && value.location !== 'cpu-pinned') {
    throw new TypeError(`"${name}" is on ${value.location}, not on the CPU`);
  }
  return [dataTypeOf(value.type), value.dims, value.data];
}

function isStrings(data: readonly string[] | DeviceHandle): data is readonly string[] {
  return Array.isArray(data);
}
