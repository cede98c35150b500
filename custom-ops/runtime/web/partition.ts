import type { Graph } from '../../../rewriter/graph/graph.js';
import type { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import type { Node } from '../../../rewriter/graph/node.js';
import { readBy } from '../../../rewriter/graph/slices.js';
import type { Value } from '../../../rewriter/graph/value.js';

/** Ordinary nodes that run as one model. */
export interface ModelStep {
  readonly kind: 'model';
  /** In topological order. */
  readonly nodes: readonly Node[];
  /** Values that come from feeds and earlier steps. */
  readonly inputs: readonly Value[];
  /** Values that later steps read or that the whole model gives out. */
  readonly outputs: readonly Value[];
  /** Stored tensors that operators read, by the name under which this model gives them out. */
  readonly exported: ReadonlyMap<Value, string>;
}

/** One node with a kernel of our own; its inputs as the steps before name them, null for absent ones. */
export interface OperatorStep {
  readonly kind: 'operator';
  readonly node: Node;
  readonly inputs: readonly (string | null)[];
}

export interface Partition {
  readonly steps: readonly (ModelStep | OperatorStep)[];
  /** Names of the values that nobody reads after a step and that the model does not give out, by step. */
  readonly released: readonly (readonly string[])[];
}

/**
 * Cuts the main graph at the nodes that `isOperator` names into the fewest ordinary models, run in order with
 * those operators in between. A value that several steps read is computed once and kept; Constant nodes are
 * repeated where they are used. Nodes inside subgraphs and function bodies are never cut out.
 */
export function partition(graph: ModelGraph, isOperator: (node: Node) => boolean): Partition {
  const { main } = graph;
  const operators = main.nodes.filter(isOperator);
  const stored = new Map<Value, string>();
  for (const value of operators.flatMap(node => node.inputs)) {
    if (value?.initializer && !stored.has(value))
      stored.set(value, graph.names.fresh(`${value.name}_stored`));
  }
  const stages = assignStages(main.nodes, isOperator);
  const steps: (ModelStep | OperatorStep)[] = [];
  for (let stage = 0; stage <= Math.max(0, ...stages.values()); stage++) {
    const model = modelStep(main, stages, isOperator, stage, stage === 0 ? stored : new Map());
    if (model) steps.push(model);
    for (const node of operators) {
      if (stages.get(node) !== stage) continue;
      const inputs = node.inputs.map(value => value && (stored.get(value) ?? value.name));
      steps.push({ kind: 'operator', node, inputs });
    }
  }
  return { steps, released: releases(steps, main) };
}

/** Names of the values that a step leaves for others. */
export function outputNames(step: ModelStep | OperatorStep): readonly string[] {
  return step.kind === 'model'
    ? [...step.outputs.map(({ name }) => name), ...step.exported.values()]
    : step.node.outputs.flatMap(value => (value ? [value.name] : []));
}

/** Names of the values that a step needs from others. */
export function inputNames(step: ModelStep | OperatorStep): readonly string[] {
  return step.kind === 'model'
    ? step.inputs.map(({ name }) => name)
    : step.inputs.filter(name => name !== null);
}

const isConstant = (node: Node): boolean => node.type === 'Constant';

/** Values of the main graph that a node reads, itself or in a subgraph. */
function readFromMain(node: Node): Set<Value> {
  return new Set([...readBy(node)].filter(value => value.graph === node.graph));
}

/**
 * Number of the model that a node belongs to, or that an operator comes after: as low as its inputs allow.
 * Operators in a row share a number, so there are as many models as any order of the steps needs.
 */
function assignStages(
  nodes: readonly Node[],
  isOperator: (node: Node) => boolean,
): ReadonlyMap<Node, number> {
  const stages = new Map<Node, number>();
  for (const node of nodes) {
    if (isConstant(node)) continue;
    const after = [...readFromMain(node)].flatMap(({ producer }) => {
      if (producer === null || isConstant(producer)) return [];
      return [stages.get(producer)! + Number(isOperator(producer) && !isOperator(node))];
    });
    stages.set(node, Math.max(0, ...after));
  }
  return stages;
}

/** The model of one stage, or null when there is nothing in it. */
function modelStep(
  main: Graph,
  stages: ReadonlyMap<Node, number>,
  isOperator: (node: Node) => boolean,
  stage: number,
  exported: ReadonlyMap<Value, string>,
): ModelStep | null {
  const computed = new Set(main.nodes.filter(node => stages.get(node) === stage && !isOperator(node)));
  const read = new Set([...computed].flatMap(node => [...readFromMain(node)]));
  /** Of a stored or constant value, the first model gives out what operators read and what is an output as it is. */
  const crosses = (value: Value): boolean => {
    const constant = value.producer === null || isConstant(value.producer);
    if (constant && stage > 0) return false;
    if (value.outputOf.includes(main)) return true;
    const readers = main.nodes.filter(node => readFromMain(node).has(value));
    return readers.some(node => (constant ? isOperator(node) : !computed.has(node)));
  };
  const constants = main.nodes.filter(
    node => isConstant(node) && node.outputs.some(value => value && (read.has(value) || crosses(value))),
  );
  const nodes = main.nodes.filter(node => computed.has(node) || constants.includes(node));
  const inside = new Set(nodes.flatMap(node => node.outputs));
  const inputs = [...read].filter(value => !value.initializer && !inside.has(value));
  const outputs = nodes.flatMap(node => node.outputs).filter(value => value !== null && crosses(value));
  const storedOutputs = stage > 0 ? [] : main.outputs.filter(value => value.initializer !== null);
  if (nodes.length === 0 && exported.size === 0 && storedOutputs.length === 0) return null;
  return {
    kind: 'model',
    nodes,
    inputs,
    outputs: [...new Set([...outputs, ...storedOutputs])].filter(value => value !== null),
    exported,
  };
}

function releases(steps: readonly (ModelStep | OperatorStep)[], main: Graph): string[][] {
  const kept = new Set(main.outputs.map(({ name }) => name));
  const last = new Map<string, number>();
  steps.forEach((step, index) => {
    for (const name of [...outputNames(step), ...inputNames(step)]) last.set(name, index);
  });
  return steps.map((_, index) =>
    [...last].filter(([name, step]) => step === index && !kept.has(name)).map(([name]) => name),
  );
}
