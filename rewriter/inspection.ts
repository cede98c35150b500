import { type Attributes, acceptance, type OperatorDefinition } from '../custom-ops/operator.js';
import type { Rewrite } from './apply.js';
import { findSites } from './find-sites.js';
import type { ModelGraph } from './graph/model-graph.js';
import { tensorBytes } from './onnx/element-size.js';
import { allTensors, externalLocations } from './onnx/external-data.js';
import type { GraphInfo, ModelInfo, NodeInfo } from './onnx/model-info.js';
import type { NodeSpec } from './onnx/spec.js';
import type { KeyWindow, MaskKind, NearMiss, Site } from './site.js';

/** What `inspect` tells of one model: the document that it prints with `--json`. */
export interface Inspection {
  readonly model: ModelHeader;
  readonly sites: readonly SiteDescription[];
  readonly near_misses: readonly NearMiss[];
}

export interface ModelHeader {
  readonly file: string | null;
  readonly ir_version: number;
  /** Version by domain; the default domain is spelled `ai.onnx`. */
  readonly opsets: Readonly<Record<string, number>>;
  /** Name and version; empty where the model names none. */
  readonly producer: string;
  /** Nodes of the graph and of the subgraphs in it; bodies of functions are not counted. */
  readonly nodes: number;
  /** Bytes of all initializers, external ones included. */
  readonly initializers_bytes: number;
  /** Files of external data, as the model names them. */
  readonly external_data: readonly string[];
}

/** A site as documents show it: numbers that the graph does not tell are null. */
export interface SiteDescription {
  readonly id: string;
  readonly scope: string | null;
  readonly pattern: string;
  /** What it computes: 'softmax' attention, or what one of the custom operators computes. */
  readonly computation: Site['computation'];
  /** What it computes that with, where it is not softmax attention: attributes of the operator. */
  readonly parameters: Attributes;
  readonly query_heads: number | null;
  readonly kv_heads: number | null;
  readonly head_dim: number | null;
  readonly scale: number | null;
  readonly causal: boolean;
  readonly mask: MaskKind;
  /** How many keys before and after its own a row sees; null unless the mask is a sliding window. */
  readonly window: KeyWindow | null;
  readonly kind: Site['kind'];
  readonly dtype: Site['dtype'];
  readonly alignment: Site['alignment'];
  readonly empty_row: Site['emptyRow'];
  readonly past: boolean;
  /** Whether any operator may take the place of the site. */
  readonly replaceable: boolean;
  /** Why none may; null otherwise. */
  readonly reason: string | null;
  /** Ids of the operators that accept the site. */
  readonly operators: readonly string[];
}

/** Finds the sites of a model and what each operator makes of them. */
export function inspect(graph: ModelGraph, operators: readonly OperatorDefinition[]): Inspection {
  const { sites, nearMisses } = findSites(graph);
  return {
    model: describeModel(graph.model),
    sites: sites.map(site => describeSite(site, operators)),
    near_misses: nearMisses,
  };
}

export function describeModel(model: ModelInfo): ModelHeader {
  const producer = [model.producerName, model.producerVersion].filter(part => part !== '').join(' ');
  let bytes = 0;
  for (const tensor of allTensors(model)) bytes += tensorBytes(tensor) ?? 0;
  return {
    file: model.file,
    ir_version: model.irVersion,
    opsets: Object.fromEntries(
      [...model.opsetImports].map(([domain, version]) => [domain || 'ai.onnx', version]),
    ),
    producer,
    nodes: [...allNodes(model.graph)].length,
    initializers_bytes: bytes,
    external_data: externalLocations(model),
  };
}

export function describeSite(site: Site, operators: readonly OperatorDefinition[]): SiteDescription {
  const answers = operators.map(operator => ({ operator, answer: acceptance(operator, site) }));
  const accepting = site.replaceable ? answers.filter(({ answer }) => answer.ok) : [];
  const refusals = answers.flatMap(({ operator, answer }) =>
    answer.ok || !comesClose(operator, site) ? [] : [answer.reason],
  );
  return {
    id: site.id,
    scope: site.scope,
    pattern: site.pattern,
    computation: site.computation,
    parameters: site.computation === 'softmax' ? {} : site.parameters,
    query_heads: site.queryHeads,
    kv_heads: site.kvHeads,
    head_dim: site.headDim,
    scale: site.scale,
    causal: site.causal,
    mask: site.mask,
    window: site.computation === 'softmax' ? site.window : null,
    kind: site.kind,
    dtype: site.dtype,
    alignment: site.alignment,
    empty_row: site.emptyRow,
    past: site.past,
    replaceable: accepting.length > 0,
    reason: accepting.length > 0 ? null : (site.reason ?? refusals.join('; ')),
    operators: accepting.map(({ operator }) => operator.id),
  };
}

/** Whether an operator computes or approximates what the site does, so that it is worth saying why it does not here. */
function comesClose({ fidelity }: OperatorDefinition, { computation }: Site): boolean {
  const close = fidelity[computation];
  return close === 'exact' || close === 'approximates-softmax';
}

/** The mask in words: a sliding window with the keys that a row sees before and after its own. */
export function maskOf({ mask, window }: Pick<SiteDescription, 'mask' | 'window'>): string {
  if (window === null) return mask;
  const [left, right] = [window.left, window.right].map(keys => keys ?? 'all');
  return `${mask} (${left} before, ${right} after)`;
}

/** Number of nodes by operator, with its domain unless it is the default one. */
export function countOperators(model: ModelInfo): OperatorCounts {
  const counts: Record<string, number> = {};
  for (const node of allNodes(model.graph)) add(counts, node, 1);
  return counts;
}

export type OperatorCounts = Readonly<Record<string, number>>;

/** The counts that a rewrite leads to. */
export function operatorsAfter(before: OperatorCounts, rewrite: Rewrite): OperatorCounts {
  const counts = { ...before };
  for (const node of allNodes({ nodes: rewrite.removed.map(({ info }) => info) })) add(counts, node, -1);
  for (const edit of rewrite.edits) {
    if (edit.kind === 'insert-nodes') for (const node of withSubgraphs(edit.nodes)) add(counts, node, 1);
  }
  return counts;
}

function add(
  counts: Record<string, number>,
  { domain = '', opType }: { readonly domain?: string; readonly opType: string },
  change: number,
): void {
  const type = domain === '' ? opType : `${domain}.${opType}`;
  counts[type] = (counts[type] ?? 0) + change;
}

/** New nodes and those of their subgraphs. */
function* withSubgraphs(nodes: readonly NodeSpec[]): Generator<NodeSpec> {
  for (const node of nodes) {
    yield node;
    for (const attribute of Object.values(node.attributes ?? {})) {
      if (attribute.type === 'graph') yield* withSubgraphs(attribute.value.nodes);
    }
  }
}

/** Nodes of a graph and of all subgraphs inside. */
function* allNodes(graph: Pick<GraphInfo, 'nodes'>): Generator<NodeInfo> {
  for (const node of graph.nodes) {
    yield node;
    for (const attribute of node.attributes.values()) {
      if (attribute.type === 'graph') yield* allNodes(attribute.value);
      else if (attribute.type === 'graphs') for (const graph of attribute.value) yield* allNodes(graph);
    }
  }
}
