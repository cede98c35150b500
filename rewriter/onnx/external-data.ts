import { InputError } from '../errors.js';
import type { ByteSource } from './byte-source.js';
import { tensorBytes } from './element-size.js';
import { modelError } from './model-error.js';
import type { ByteRange, GraphInfo, ModelInfo, NodeInfo, TensorInfo, TensorStorage } from './model-info.js';

export type ExternalTensor = TensorInfo & { readonly storage: TensorStorage & { readonly kind: 'external' } };

/** Every tensor of a model: initializers and attributes of all graphs and functions, nested ones included. */
export function* allTensors(model: ModelInfo): Generator<TensorInfo> {
  yield* tensorsOfGraph(model.graph);
  for (const body of model.functions) yield* tensorsOfNodes(body.nodes);
}

function* tensorsOfGraph(graph: GraphInfo): Generator<TensorInfo> {
  yield* graph.initializers;
  for (const { values, indices } of graph.sparseInitializers) yield* [values, indices];
  yield* tensorsOfNodes(graph.nodes);
}

function* tensorsOfNodes(nodes: readonly NodeInfo[]): Generator<TensorInfo> {
  for (const { attributes } of nodes) {
    for (const attribute of attributes.values()) {
      if (attribute.type === 'tensor') yield attribute.value;
      else if (attribute.type === 'tensors') yield* attribute.value;
      else if (attribute.type === 'graph') yield* tensorsOfGraph(attribute.value);
      else if (attribute.type === 'graphs') for (const graph of attribute.value) yield* tensorsOfGraph(graph);
      else if (attribute.type === 'sparse_tensor') yield* [attribute.value.values, attribute.value.indices];
      else if (attribute.type === 'sparse_tensors') {
        for (const { values, indices } of attribute.value) yield* [values, indices];
      }
    }
  }
}

/** The tensors whose data is in other files. */
export function externalTensors(model: ModelInfo): ExternalTensor[] {
  return [...allTensors(model)].filter(isExternal);
}

export function isExternal(tensor: TensorInfo): tensor is ExternalTensor {
  return tensor.storage.kind === 'external';
}

/** The locations of the external data files of a model, each once. */
export function externalLocations(model: ModelInfo): string[] {
  return [...new Set(externalTensors(model).map(({ storage }) => storage.location))];
}

/**
 * Checks that all external data is there, without reading it.
 * @throws InputError naming the tensor
 */
export function checkExternalData(model: ModelInfo): void {
  for (const tensor of externalTensors(model)) openExternalTensor(model, tensor);
}

/**
 * The file and the range in it that hold the elements of a tensor.
 * @throws InputError when the location is forbidden, the file cannot be read, or the range leaves the file or
 * does not have the length that the shape needs
 */
export function openExternalTensor(
  model: ModelInfo,
  tensor: ExternalTensor,
): { readonly source: ByteSource; readonly range: ByteRange } {
  const { location, offset, length } = tensor.storage;
  const bad = (why: string, remedy: string) =>
    modelError(model, `external data of tensor '${tensor.name}': ${why}`, remedy);
  if (model.sidecars === null) throw bad(`'${location}' was not given`, 'Give it together with the model.');
  const source = model.sidecars.open(location);
  const needed = tensorBytes(tensor);
  if (needed !== null && length !== null && length !== needed) {
    throw bad(`${length} bytes for a shape that needs ${needed}`, 'Export the model again.');
  }
  const end = offset + (length ?? needed ?? 0);
  if (end > source.length) {
    throw bad(
      `'${location}' has ${source.length} bytes where ${end} are needed`,
      'The file is incomplete or belongs to another model: download or export both again.',
    );
  }
  return { source, range: { start: offset, end } };
}

/**
 * @throws InputError when a location is not a relative path that stays in the model's folder; a symbolic link
 * that leads out is for the caller to find
 */
export function checkLocation(location: string, modelFile: string): void {
  const steps = location.split(/[\\/]/);
  const absolute = steps[0] === '' || /^[A-Za-z]:/.test(location);
  if (absolute || steps.includes('..') || location.includes('\0')) {
    throw new InputError(
      `${modelFile}: external data location '${location}' leaves the folder of the model`,
      {
        file: modelFile,
        remedy: 'Keep the files of external data beside the model, and do not open models you do not trust.',
      },
    );
  }
}
