import { InputError } from '../errors.js';
import { tensorBytes } from './element-size.js';
import type { GraphInfo, ModelInfo, NodeInfo, TensorInfo, TensorStorage } from './model-info.js';

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
  return [...allTensors(model)].filter(tensor => tensor.storage.kind === 'external') as ExternalTensor[];
}

/** The locations of the external data files of a model, each once. */
export function externalLocations(model: ModelInfo): string[] {
  return [...new Set(externalTensors(model).map(({ storage }) => storage.location))];
}

/**
 * Checks that all external data is there: allowed locations, files that can be read, ranges inside them and
 * as long as the tensors need.
 * @throws InputError naming the tensor
 */
export function checkExternalData(model: ModelInfo): void {
  for (const tensor of externalTensors(model)) {
    const { location, offset, length } = tensor.storage;
    const bad = (why: string, remedy: string) =>
      new InputError(`${model.file ?? 'model'}: external data of tensor '${tensor.name}': ${why}`, {
        ...(model.file === null ? {} : { file: model.file }),
        remedy,
      });
    if (model.sidecars === null) throw bad(`'${location}' was not given`, 'Give it together with the model.');
    const needed = tensorBytes(tensor);
    if (needed !== null && length !== null && length !== needed) {
      throw bad(`${length} bytes for a shape that needs ${needed}`, 'Export the model again.');
    }
    const end = offset + (length ?? needed ?? 0);
    const size = model.sidecars.open(location).length;
    if (end > size) {
      throw bad(
        `'${location}' has ${size} bytes where ${end} are needed`,
        'The file is incomplete or belongs to another model: download or export both again.',
      );
    }
  }
}

/**
 * @throws InputError when a location is not a relative path that stays in the model's folder; a symbolic link
 * that leads out is for the caller to find
 */
export function checkLocation(location: string): void {
  const steps = location.split(/[\\/]/);
  const absolute = steps[0] === '' || /^[A-Za-z]:/.test(location);
  if (absolute || steps.includes('..') || location.includes('\0')) {
    throw new InputError(`external data location '${location}' leaves the folder of the model`, {
      remedy: 'Keep the files of external data beside the model, and do not open models you do not trust.',
    });
  }
}
