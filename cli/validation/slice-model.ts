import { editModel, type ModelEdit } from '../../rewriter/onnx/edit.js';
import type { ModelInfo, NodeInfo, TensorInfo } from '../../rewriter/onnx/model-info.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { DATA_TYPES, type TensorValue } from '../data/tensor.js';

/** A part of the main graph of a model. */
export interface ModelSlice {
  readonly nodes: ReadonlySet<NodeInfo>;
  readonly initializers: ReadonlySet<TensorInfo>;
  /** Values that its nodes compute. */
  readonly outputs: readonly string[];
}

/** `model` reduced to a slice, with `inputs` telling the types of the values that it is fed. */
export function sliceModel(
  model: ModelInfo,
  { nodes, initializers, outputs }: ModelSlice,
  inputs: ReadonlyMap<string, TensorValue>,
): Uint8Array {
  const { graph } = model;
  const dropped = [
    ...graph.nodes.filter(node => !nodes.has(node)),
    ...graph.initializers.filter(tensor => !initializers.has(tensor)),
    ...graph.sparseInitializers,
    ...graph.inputs,
    ...graph.outputs,
    ...graph.valueInfos,
  ];
  const edits = [
    ...dropped.map((item): ModelEdit => ({ kind: 'remove', from: graph, item })),
    ...[...inputs].map(([name, { type, dims }]): ModelEdit => {
      const value = { name, dataType: DATA_TYPES[type], dims: dims.map(() => null) };
      return { kind: 'add-input', to: graph, value };
    }),
    ...outputs.map((name): ModelEdit => ({ kind: 'add-output', to: graph, name })),
  ];
  return writeToMemory(model.source, editModel(model, edits));
}
