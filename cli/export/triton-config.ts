import { InputError } from '../../rewriter/errors.js';
import type { ModelInfo, ValueInfo } from '../../rewriter/onnx/model-info.js';
import { DataType } from '../../rewriter/onnx/spec.js';

export interface TritonOptions {
  readonly name: string;
  /** Most requests that the server may join in one batch; 0 when requests have the model's own shapes. */
  readonly maxBatch: number;
  readonly device: 'cpu' | 'gpu';
  /** Path, on the server, of the library with the native kernels; null to run function bodies. */
  readonly library: string | null;
}

/** Element types as the configuration names them, where that is not `TYPE_` and ONNX's name. */
const TYPES: Readonly<Partial<Record<DataType, string>>> = {
  [DataType.FLOAT]: 'TYPE_FP32',
  [DataType.DOUBLE]: 'TYPE_FP64',
  [DataType.FLOAT16]: 'TYPE_FP16',
  [DataType.BFLOAT16]: 'TYPE_BF16',
  [DataType.INT8]: 'TYPE_INT8',
  [DataType.INT16]: 'TYPE_INT16',
  [DataType.INT32]: 'TYPE_INT32',
  [DataType.INT64]: 'TYPE_INT64',
  [DataType.UINT8]: 'TYPE_UINT8',
  [DataType.UINT16]: 'TYPE_UINT16',
  [DataType.UINT32]: 'TYPE_UINT32',
  [DataType.UINT64]: 'TYPE_UINT64',
  [DataType.BOOL]: 'TYPE_BOOL',
  [DataType.STRING]: 'TYPE_STRING',
};

/**
 * The `config.pbtxt` of a model in a Triton model repository, for its ONNX Runtime backend.
 * @throws InputError for inputs or outputs that are no tensors, are of unknown rank, or have no batch dimension to join
 *   requests along
 */
export function tritonConfig(model: ModelInfo, options: TritonOptions): string {
  const { name, maxBatch, device, library } = options;
  const { graph } = model;
  const file = model.file ?? 'model';
  const initialized = new Set(graph.initializers.map(tensor => tensor.name));
  const tensors = (field: string, values: readonly ValueInfo[]) =>
    values.map(value => `${field} [\n${message(tensorFields(value, maxBatch > 0, file))}\n]`);
  return [
    `name: ${quoted(name)}`,
    'platform: "onnxruntime_onnx"',
    `max_batch_size: ${maxBatch}`,
    ...tensors(
      'input',
      graph.inputs.filter(input => !initialized.has(input.name)),
    ),
    ...tensors('output', graph.outputs),
    `instance_group [\n${message([`kind: ${device === 'gpu' ? 'KIND_GPU' : 'KIND_CPU'}`])}\n]`,
    ...(maxBatch > 0 ? ['dynamic_batching { }'] : []),
    ...(library === null ? [] : [`model_operations { op_library_filename: [ ${quoted(library)} ] }`]),
    '',
  ].join('\n');
}

function tensorFields({ name, kind, dataType, dims }: ValueInfo, batched: boolean, file: string): string[] {
  const type = TYPES[dataType];
  if (kind !== 'tensor' || type === undefined || dims === null) {
    const why =
      dims === null ? 'its rank is unknown' : `Triton has no type for it (${kind}, ${DataType[dataType]})`;
    throw new InputError(`${file}: "${name}" cannot be described: ${why}`, { file });
  }
  if (batched && (dims.length === 0 || typeof dims[0] === 'number')) {
    throw new InputError(`${file}: "${name}" has no dynamic batch dimension in front`, {
      file,
      remedy: 'Leave out --max-batch.',
    });
  }
  const sizes = (batched ? dims.slice(1) : dims).map(dim => (typeof dim === 'number' ? dim : -1));
  // Dims must not be empty: a scalar is declared as one element, and reshaped.
  const shape =
    sizes.length > 0 ? [`dims: [ ${sizes.join(', ')} ]`] : ['dims: [ 1 ]', 'reshape { shape: [ ] }'];
  return [`name: ${quoted(name)}`, `data_type: ${type}`, ...shape];
}

function message(fields: readonly string[]): string {
  return ['  {', ...fields.map(field => `    ${field}`), '  }'].join('\n');
}

/** A string literal of protobuf's text format. */
function quoted(text: string): string {
  const escapes: Readonly<Record<string, string>> = { '\\': '\\\\', '"': '\\"', '\n': '\\n' };
  return `"${text.replace(/[\\"\n]/g, character => escapes[character]!)}"`;
}
