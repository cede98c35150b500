import type * as Ort from 'onnxruntime-common';
import type { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import type { Node } from '../../../rewriter/graph/node.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import { DataType, type ValueSpec } from '../../../rewriter/onnx/spec.js';
import { BufferPool } from './buffer-pool.js';
import type { ExternalFiles } from './external-files.js';
import { causeOf, checkDevice } from './gpu-loss.js';
import { identityModel } from './identity-model.js';
import { int64Values } from './integer-values.js';
import { attributesOf } from './node-attributes.js';
import type { WebGpuOperator } from './operator.js';
import { OperatorCall } from './operator-call.js';
import { partialModel } from './partial-model.js';
import { inputNames, type ModelStep, type OperatorStep, outputNames, partition } from './partition.js';
import { PartitionError } from './partition-error.js';
import { Run } from './partitioned-run.js';
import { dataType } from './tensor-type.js';

type Tensor = Ort.Tensor;
type SessionOptions = Ort.InferenceSession.SessionOptions;

/** One step, ready to run. */
type Stage =
  | { readonly kind: 'model'; readonly step: ModelStep; readonly session: Ort.InferenceSession }
  | {
      readonly kind: 'operator';
      readonly step: OperatorStep;
      readonly call: OperatorCall;
    };

/**
 * A model cut at the nodes that have WebGPU kernels: ordinary parts run as sessions of onnxruntime-web's WebGPU
 * execution provider, the nodes between them on the same device and queue. Values stay in GPU memory, and
 * nothing waits for the GPU until outputs are read. The caller holds the lock of lock.ts around every call.
 */
export class PartitionedSession {
  readonly #pool: BufferPool;

  private constructor(
    private readonly ort: typeof Ort,
    private readonly sessions: readonly Ort.InferenceSession[],
    private readonly stages: readonly Stage[],
    private readonly released: readonly (readonly string[])[],
    private readonly device: GPUDevice,
    /** Outputs that the caller wants left on the GPU. */
    private readonly keptOnGpu: ReadonlySet<string>,
  ) {
    this.#pool = new BufferPool(device);
  }

  /**
   * @param kernelOf the kernel of a node, or null for nodes that ONNX Runtime runs
   * @param files what the model has in external data, loaded
   * @param options with the WebGPU execution provider
   * @throws PartitionError when the model cannot be cut
   */
  static async create(
    ort: typeof Ort,
    graph: ModelGraph,
    kernelOf: (node: Node) => WebGpuOperator | null,
    files: ExternalFiles,
    options: SessionOptions,
  ): Promise<PartitionedSession> {
    const { steps, released } = partition(graph, node => kernelOf(node) !== null);
    const types = new Map<string, Omit<ValueSpec, 'name'>>();
    for (const { name, dataType, dims } of graph.model.graph.inputs) {
      types.set(name, { dataType, ...(dims && { dims }) });
    }
    const keptOnGpu = outputsLeftOnGpu(graph, options);
    const crossing = new Set(steps.flatMap(inputNames));
    const int64 = new Set([...int64Values(graph.main)].map(({ name }) => name));
    const location = (name: string) => {
      if (crossing.has(name)) return int64.has(name) ? 'cpu' : 'gpu-buffer';
      return keptOnGpu.has(name) ? 'gpu-buffer' : 'cpu';
    };
    const stages: Stage[] = [];
    const sessions: Ort.InferenceSession[] = [];
    try {
      for (const step of steps) {
        if (step.kind === 'operator') {
          const operator = kernelOf(step.node)!;
          stages.push({ kind: 'operator', step, call: new OperatorCall(operator, attributesOf(step.node)) });
          const first = types.get(step.inputs[0] ?? '');
          step.node.outputs.forEach((value, n) => {
            const type = operator.float32Outputs.has(n) ? DataType.FLOAT : first?.dataType;
            if (value && type !== undefined) types.set(value.name, withDims(type, value.declared?.dims));
          });
          continue;
        }
        const model = partialModel(graph.model, step, name => {
          const type = types.get(name);
          if (!type) throw new PartitionError(`the value '${name}' between two parts is not a tensor`);
          return type;
        });
        const session = await ort.InferenceSession.create(model, {
          // Else every part warns that ONNX Runtime leaves computations of shapes on the CPU.
          logSeverityLevel: 3,
          ...options,
          ...files.optionFor(decodeModel(model)),
          preferredOutputLocation: Object.fromEntries(outputNames(step).map(name => [name, location(name)])),
        });
        sessions.push(session);
        stages.push({ kind: 'model', step, session });
        for (const output of session.outputMetadata) {
          if (output.isTensor)
            types.set(output.name, withDims(dataType(output.type), knownDims(output.shape)));
        }
      }
      if (sessions.length === 0) sessions.push(await ort.InferenceSession.create(identityModel(), options));
      const device = givenDevice(options) ?? ((await ort.env.webgpu.device) as GPUDevice);
      return new PartitionedSession(ort, sessions, stages, released, device, keptOnGpu);
    } catch (error) {
      for (const session of sessions) await session.release();
      throw error;
    }
  }

  /** Ordinary models that the model was cut into. */
  get parts(): number {
    return this.stages.filter(({ kind }) => kind === 'model').length;
  }

  /** Bytes of GPU memory held for operators between runs; what ONNX Runtime holds is not in it. */
  get scratchBytes(): number {
    return this.#pool.bytes;
  }

  /**
   * @throws GpuLimitError or GpuMemoryError when the inputs are too large for the device
   * @throws GpuLostError when the device is gone
   * @throws Error with WebGPU's message when a kernel is refused
   */
  async run(
    feeds: Readonly<Record<string, Tensor>>,
    wanted: readonly string[],
    options: Ort.InferenceSession.RunOptions,
  ): Promise<Record<string, Tensor>> {
    await checkDevice(this.device);
    const run = new Run(this.ort, this.device, this.#pool, feeds);
    try {
      for (const [index, stage] of this.stages.entries()) {
        if (stage.kind === 'model') await run.runModel(stage.session, inputNames(stage.step), options);
        else run.runOperator(stage.call, stage.step.inputs, stage.step.node);
        for (const name of this.released[index]!) run.release(name);
      }
      await run.checkErrors();
      return await run.outputs(wanted, this.keptOnGpu);
    } catch (error) {
      this.#forgetCalls();
      throw await causeOf(error, this.device);
    } finally {
      run.finish();
      this.#pool.trim();
    }
  }

  async release(): Promise<void> {
    this.#forgetCalls();
    for (const session of this.sessions) await session.release();
    this.#pool.destroy();
  }

  #forgetCalls(): void {
    for (const stage of this.stages) if (stage.kind === 'operator') stage.call.forget();
  }
}

/** The device that the caller put into the provider's options. */
function givenDevice({ executionProviders = [] }: SessionOptions): GPUDevice | null {
  for (const provider of executionProviders) {
    if (typeof provider === 'object' && 'device' in provider) return provider.device as GPUDevice;
  }
  return null;
}

function outputsLeftOnGpu(
  graph: ModelGraph,
  { preferredOutputLocation: preferred }: SessionOptions,
): Set<string> {
  const names = graph.main.outputs.map(({ name }) => name);
  return new Set(
    names.filter(name => (typeof preferred === 'string' ? preferred : preferred?.[name]) === 'gpu-buffer'),
  );
}

/** Dims as ONNX Runtime reports them: none for an unknown rank, and -1, read as unsigned, for an unknown dim. */
function knownDims(shape: readonly (number | string)[]): ValueSpec['dims'] | null {
  if (shape.length === 0) return null;
  return shape.map(dim => (typeof dim === 'number' && (dim < 0 || dim > 0x7fffffff) ? null : dim));
}

function withDims(type: DataType, dims: ValueSpec['dims'] | null): Omit<ValueSpec, 'name'> {
  return { dataType: type, ...(dims && { dims }) };
}
