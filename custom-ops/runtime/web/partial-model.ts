import { readBy } from '../../../rewriter/graph/slices.js';
import { editModel, type ModelEdit } from '../../../rewriter/onnx/edit.js';
import type { ModelInfo } from '../../../rewriter/onnx/model-info.js';
import type { ValueSpec } from '../../../rewriter/onnx/spec.js';
import { writeToMemory } from '../../../rewriter/onnx/write.js';
import type { ModelStep } from './partition.js';

/**
 * The bytes of one step's model: the whole model without everything else, so weights, functions, operator sets
 * and metadata are the whole model's own.
 * @param typeOf element type, and dims where known, of an input that is none of the whole model's
 */
export function partialModel(
  model: ModelInfo,
  step: ModelStep,
  typeOf: (name: string) => Omit<ValueSpec, 'name'>,
): Uint8Array<ArrayBuffer> {
  const { graph } = model;
  const nodes = new Set(step.nodes.map(({ info }) => info));
  const inputs = new Set(step.inputs.map(({ name }) => name));
  const outputs = new Set(step.outputs.map(({ name }) => name));
  const computed = new Set(step.nodes.flatMap(({ info }) => info.outputs));
  const stored = storedNames(step);
  const edits: ModelEdit[] = [];
  const keep = <Item extends { readonly range: ModelInfo['graph']['range'] }>(
    items: readonly Item[],
    isKept: (item: Item) => boolean,
  ) => {
    for (const item of items) if (!isKept(item)) edits.push({ kind: 'remove', from: graph, item });
  };
  keep(graph.nodes, node => nodes.has(node));
  keep(graph.initializers, ({ name }) => stored.has(name));
  keep(graph.valueInfos, ({ name }) => computed.has(name) && !outputs.has(name));
  keep(graph.inputs, ({ name }) => inputs.has(name) || stored.has(name));
  keep(graph.outputs, ({ name }) => outputs.has(name));
  const known = (names: readonly { readonly name: string }[]) => new Set(names.map(({ name }) => name));
  const givenIn = known(graph.inputs);
  const givenOut = known(graph.outputs);
  for (const name of inputs) {
    if (!givenIn.has(name)) edits.push({ kind: 'add-input', to: graph, value: { name, ...typeOf(name) } });
  }
  for (const name of outputs) {
    if (!givenOut.has(name)) edits.push({ kind: 'add-output', to: graph, name });
  }
  for (const [{ name }, exported] of step.exported) {
    const node = { opType: 'Identity', inputs: [name], outputs: [exported] };
    edits.push({ kind: 'insert-nodes', into: graph, before: null, nodes: [node] });
    edits.push({ kind: 'add-output', to: graph, name: exported });
  }
  return writeToMemory(model.source, editModel(model, edits));
}

/** Names of the stored tensors that the model of a step holds. */
function storedNames(step: ModelStep): ReadonlySet<string> {
  const values = [...step.nodes.flatMap(node => [...readBy(node)]), ...step.outputs, ...step.exported.keys()];
  return new Set(values.filter(({ initializer }) => initializer !== null).map(({ name }) => name));
}
