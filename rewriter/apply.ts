import { DOMAIN, DOMAIN_VERSION } from '../custom-ops/operator.js';
import { planFunctions } from './function-overloads.js';
import type { Graph } from './graph/graph.js';
import type { ModelGraph } from './graph/model-graph.js';
import type { Node } from './graph/node.js';
import { deadNodes, isInside, readBy } from './graph/slices.js';
import type { Value } from './graph/value.js';
import type { ModelEdit } from './onnx/edit.js';
import { modelError } from './onnx/model-error.js';
import type { FunctionInfo, ModelInfo, NodeListInfo } from './onnx/model-info.js';
import type { FunctionSpec } from './onnx/spec.js';
import type { SharedValues } from './operator-cache.js';
import {
  connectedInputs,
  connectedOutputs,
  type Replacement,
  replacementNodes,
  valuesRead,
} from './replacement-nodes.js';
import { isAttention, valuesBehind, valuesComputed } from './site.js';

/** Before this IR version every initializer is a graph input as well, by rule and not by intent. */
const IR_WITH_FREE_INITIALIZERS = 4;

/** For adapters and function bodies in a model that has no operators of the default set. */
const DEFAULT_OPSET = 18;

/** A rewrite that is not written yet. */
export interface Rewrite {
  /** For `editModel`. */
  readonly edits: readonly ModelEdit[];
  /** Nodes that the rewrite removes: they computed nothing but what is now computed otherwise. */
  readonly removed: readonly Node[];
  /** Nodes that it adds. */
  readonly added: number;
}

/** A replacement with its place in the graph. */
interface Located {
  readonly replacement: Replacement;
  /** What it computes, the output of attention first. */
  readonly outputs: readonly Value[];
  /** The node that computed the output of attention: the operator takes its place. */
  readonly producer: Node;
}

/**
 * Replaces attention sites by operators. Each new node takes the place of the node that computed the site's
 * output, under the output's name, so order and consumers stay as they are. Nodes, initializers and value
 * infos that the rewrite leaves without use are removed, whatever had no use before stays.
 *
 * IR version: at least 8 (functions), 10 when one operator needs several bodies. The model's own operator sets
 * stay as they are.
 * @throws InputError when the model uses the operators' domain in another version
 */
export function applyRewrite(graph: ModelGraph, replacements: readonly Replacement[]): Rewrite {
  if (replacements.length === 0) return { edits: [], removed: [], added: 0 };
  const { model } = graph;
  const located = replacements.map(locate).sort((a, b) => position(a) - position(b));
  const kept = keptValues(located);
  const removed = removedNodes(located, kept);
  const bodies = functionBodies(
    model,
    located.map(({ replacement }) => replacement),
  );
  const functions = planFunctions(model, bodies);
  const sharedIn = new Map<Graph, SharedValues>();
  const insertions = located.map(({ replacement, producer }, i): ModelEdit & { kind: 'insert-nodes' } => {
    const shared = sharedIn.get(producer.graph) ?? new Map<string, string>();
    sharedIn.set(producer.graph, shared);
    const nodes = replacementNodes(replacement, functions.overloads[i]!, graph.names, shared);
    return { kind: 'insert-nodes', into: producer.graph.info, before: producer.info, nodes };
  });
  return {
    edits: [
      ...insertions,
      ...removed.map(node => ({ kind: 'remove', from: node.graph.info, item: node.info }) as const),
      ...removalsOfUnused(model, new Set(removed), kept, new Set(located.flatMap(({ outputs }) => outputs))),
      ...functions.added.map(body => ({ kind: 'add-function', body }) as const),
      ...opsetImports(model, located),
      ...irVersion(model, functions.irVersion),
    ],
    removed,
    added: insertions.reduce((sum, { nodes }) => sum + nodes.length, 0),
  };
}

/** @throws RangeError when the site does not fit the graph */
function locate(replacement: Replacement): Located {
  const { site } = replacement;
  const outputs = valuesComputed(site).map(name => {
    const output = site.nodes[0]?.graph.resolve(name);
    if (!output?.producer) throw new RangeError(`the output of site ${site.id} is computed by no node`);
    return output;
  });
  return { replacement, outputs, producer: outputs[0]!.producer! };
}

function position({ producer }: Located): number {
  return producer.info.range.start;
}

/**
 * The body for each replacement: the same object where operator, attributes, inputs and type are the same.
 * @throws InputError when the model's operator set is too old for an operator
 */
function functionBodies(model: ModelInfo, replacements: readonly Replacement[]): FunctionSpec[] {
  const opset = model.opsetImports.get('') ?? DEFAULT_OPSET;
  const bodies = new Map<string, FunctionSpec>();
  return replacements.map(replacement => {
    const { site, operator, attributes } = replacement;
    if (opset < operator.oldestOpset) {
      throw modelError(
        model,
        `it uses opset ${opset}, and ${operator.id} needs ${operator.oldestOpset} or newer`,
        'Export the model with a newer opset.',
      );
    }
    const connected = [...connectedInputs(replacement).keys(), ...connectedOutputs(site)];
    const values = operator.attributes.map(({ name }) => attributes[name] ?? null);
    const elementType = site.output.dataType;
    const key = JSON.stringify([operator.opType, values, connected, elementType]);
    const body = bodies.get(key) ?? operator.functionBody(attributes, connected, { opset, elementType });
    bodies.set(key, body);
    return body;
  });
}

/**
 * What the replacements read.
 * @throws RangeError when a site names a value that the graph has not
 */
function keptValues(located: readonly Located[]): ReadonlySet<Value> {
  const kept = new Set<Value>();
  for (const { replacement, producer } of located) {
    const { site } = replacement;
    const operands = [...connectedInputs(replacement).values()].flatMap(valuesRead);
    for (const name of [...operands, ...(isAttention(site) ? valuesBehind(site) : [])]) {
      const value = producer.graph.resolve(name);
      if (value === null) throw new RangeError(`site ${site.id} reads '${name}', which is not there`);
      kept.add(value);
    }
  }
  return kept;
}

/** @throws RangeError when a node computes the output of a site and something else that is in use */
function removedNodes(located: readonly Located[], kept: ReadonlySet<Value>): readonly Node[] {
  const removed = deadNodes(
    located.flatMap(({ outputs }) => outputs),
    kept,
  );
  for (const { replacement, outputs } of located) {
    const left = outputs.find(({ producer }) => !removed.includes(producer!))?.producer;
    if (left == null) continue;
    throw new RangeError(
      `site ${replacement.site.id}: ${left.label} computes more than the output of attention`,
    );
  }
  return removed;
}

/** Removes the initializers that only removed nodes read, and the value infos of what they computed. */
function* removalsOfUnused(
  model: ModelInfo,
  removed: ReadonlySet<Node>,
  kept: ReadonlySet<Value>,
  replaced: ReadonlySet<Value>,
): Generator<ModelEdit> {
  const gone = new Set<Value>();
  for (const node of removed) {
    for (const value of node.outputs) if (value !== null && !replaced.has(value)) gone.add(value);
    for (const value of readBy(node)) {
      const overridable = model.irVersion >= IR_WITH_FREE_INITIALIZERS && value.graph.inputs.includes(value);
      const used = value.outputOf.length > 0 || value.uses.some(use => !isInside(use.node, removed));
      if (value.initializer !== null && !overridable && !used && !kept.has(value)) gone.add(value);
    }
  }
  for (const { graph, name, initializer } of gone) {
    if (initializer !== null) yield { kind: 'remove', from: graph.info, item: initializer };
    for (const info of graph.info.valueInfos) {
      if (info.name === name) yield { kind: 'remove', from: graph.info, item: info };
    }
  }
}

/** The operator sets that the new nodes need, where they are not yet imported. */
function opsetImports(model: ModelInfo, located: readonly Located[]): ModelEdit[] {
  const functions = located.map(({ producer }) => outermost(producer.graph).info).filter(isFunction);
  return [model, ...new Set(functions)].flatMap(into => {
    const version = into.opsetImports.get(DOMAIN) ?? DOMAIN_VERSION;
    if (version !== DOMAIN_VERSION) {
      throw modelError(
        model,
        `it uses version ${version} of domain ${DOMAIN}`,
        `This program writes version ${DOMAIN_VERSION}: rewrite the original model instead.`,
      );
    }
    const needed = [
      { domain: '', version: model.opsetImports.get('') ?? DEFAULT_OPSET },
      { domain: DOMAIN, version: DOMAIN_VERSION },
    ];
    return needed
      .filter(({ domain }) => !into.opsetImports.has(domain))
      .map(imported => ({ kind: 'import-opset', into, ...imported }) as const);
  });
}

function outermost(graph: Graph): Graph {
  return graph.parent === null ? graph : outermost(graph.parent);
}

function isFunction(info: NodeListInfo): info is FunctionInfo {
  return info.kind === 'function';
}

/**
 * Raises the IR version where needed. Up to version 3, initializers are constants although they are listed as
 * inputs; from version 4 on such a listing would let callers override them and keep runtimes from folding them.
 */
function irVersion(model: ModelInfo, least: number): ModelEdit[] {
  if (model.irVersion >= least) return [];
  const { graph } = model;
  const stored = new Set(graph.initializers.map(({ name }) => name));
  const listed = model.irVersion < IR_WITH_FREE_INITIALIZERS ? graph.inputs : [];
  return [
    { kind: 'set-ir-version', version: least },
    ...listed
      .filter(({ name }) => stored.has(name))
      .map(item => ({ kind: 'remove', from: graph, item }) as const),
  ];
}
