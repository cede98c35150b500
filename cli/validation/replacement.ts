import { DOMAIN } from '../../custom-ops/operator.js';
import { editModel, type ModelEdit } from '../../rewriter/onnx/edit.js';
import type { GraphInfo, ModelInfo, NodeInfo, TensorInfo } from '../../rewriter/onnx/model-info.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { SITE_METADATA } from '../../rewriter/replacement-nodes.js';
import type { TensorValue } from '../data/tensor.js';
import { sliceModel } from './slice-model.js';

/**
 * A node of our domain in a rewritten model, together with the nodes that adapt layouts around it: everything
 * between values that the original model computes too.
 */
export interface Replacement {
  readonly node: NodeInfo;
  /** The value of the original that the replacement computes in its place. */
  readonly output: string;
  /** Values of the original that it computes it from. */
  readonly inputs: readonly string[];
  readonly nodes: ReadonlySet<NodeInfo>;
  readonly initializers: ReadonlySet<TensorInfo>;
}

/** The replacements in the main graph of `rewritten`, in graph order. */
export function findReplacements(original: ModelInfo, rewritten: ModelInfo): Replacement[] {
  const computed = new Set([
    ...original.graph.inputs.map(input => input.name),
    ...original.graph.nodes.flatMap(node => node.outputs),
  ]);
  const { nodes, initializers } = rewritten.graph;
  const producers = new Map(nodes.flatMap(node => node.outputs.map(output => [output, node] as const)));
  const tensors = new Map(initializers.map(tensor => [tensor.name, tensor]));

  const outputOf = (node: NodeInfo): string | null => {
    for (const output of node.outputs) {
      if (output === '') continue;
      if (computed.has(output)) return output;
      for (const consumer of nodes.filter(other => other.inputs.includes(output))) {
        const found = outputOf(consumer);
        if (found !== null) return found;
      }
    }
    return null;
  };

  return nodes
    .filter(node => node.domain === DOMAIN)
    .flatMap(node => {
      const output = outputOf(node);
      if (output === null) return [];
      const slice = {
        nodes: new Set<NodeInfo>(),
        inputs: new Set<string>(),
        initializers: new Set<TensorInfo>(),
      };
      const visit = (value: string): void => {
        const producer = producers.get(value);
        const tensor = tensors.get(value);
        if (tensor) slice.initializers.add(tensor);
        else if (value !== output && computed.has(value)) slice.inputs.add(value);
        else if (producer && !slice.nodes.has(producer)) {
          slice.nodes.add(producer);
          for (const input of readBy(producer)) visit(input);
        }
      };
      visit(output);
      return [
        { node, output, inputs: [...slice.inputs], nodes: slice.nodes, initializers: slice.initializers },
      ];
    });
}

/** `rewritten` reduced to one replacement, with `inputs` telling the types that it is fed. */
export function isolate(
  rewritten: ModelInfo,
  replacement: Replacement,
  inputs: ReadonlyMap<string, TensorValue>,
): Uint8Array {
  return sliceModel(rewritten, { ...replacement, outputs: [replacement.output] }, inputs);
}

/** `model` with inner values made outputs. */
export function expose(model: ModelInfo, values: readonly string[]): Uint8Array {
  const present = new Set(model.graph.outputs.map(output => output.name));
  return edited(
    model,
    values
      .filter(name => !present.has(name))
      .map((name): ModelEdit => ({ kind: 'add-output', to: model.graph, name })),
  );
}

/** Nodes of our domain whose values cannot be made outputs of the model: those in subgraphs and functions. */
export function hiddenNodes(rewritten: ModelInfo): NodeInfo[] {
  const inside = (node: NodeInfo): NodeInfo[] =>
    bodies(node).flatMap(body => body.nodes.flatMap(inner => [...ours(inner), ...inside(inner)]));
  const functions = rewritten.functions.filter(body => body.domain !== DOMAIN);
  return [
    ...rewritten.graph.nodes.flatMap(inside),
    ...functions.flatMap(body => body.nodes.flatMap(node => [...ours(node), ...inside(node)])),
  ];
}

/** The site that a node replaced. */
export function siteId(node: NodeInfo): string {
  return node.metadata.get(SITE_METADATA) ?? node.name;
}

/** Key length below which a node computes exact attention; 0 where it never does. */
export function exactBelowOf(node: NodeInfo): number {
  const attribute = node.attributes.get('exact_below');
  return attribute?.type === 'int' ? attribute.value : 0;
}

function ours(node: NodeInfo): NodeInfo[] {
  return node.domain === DOMAIN ? [node] : [];
}

/** Values that a node reads, those of its subgraphs too. */
function readBy(node: NodeInfo): string[] {
  const inside = bodies(node).flatMap(({ nodes, outputs }) => [
    ...nodes.flatMap(readBy),
    ...outputs.map(({ name }) => name),
  ]);
  return [...node.inputs.filter(name => name !== ''), ...inside];
}

function bodies(node: NodeInfo): readonly GraphInfo[] {
  return [...node.attributes.values()].flatMap(attribute =>
    attribute.type === 'graph' ? [attribute.value] : attribute.type === 'graphs' ? attribute.value : [],
  );
}

function edited(model: ModelInfo, edits: readonly ModelEdit[]): Uint8Array {
  return writeToMemory(model.source, editModel(model, edits));
}
