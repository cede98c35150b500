import { DOMAIN } from '../custom-ops/operator.js';
import { describeFusion } from './describe-fusion.js';
import { describeSite } from './describe-site.js';
import type { ModelGraph } from './graph/model-graph.js';
import type { Node } from './graph/node.js';
import { MaskInspector } from './masks/facts.js';
import { SOURCE_FORMS } from './patterns/index.js';
import {
  type Attention,
  type FormContext,
  type Fusion,
  isFusion,
  isMiss,
  type Miss,
  type SourceForm,
} from './patterns/source-form.js';
import { Laboratory } from './probe/laboratory.js';
import { UnknownSample } from './probe/sample.js';
import type { NearMiss, Site } from './site.js';

/** How often a form was tried and how often it was right. */
export interface FormStatistics {
  readonly pattern: string;
  readonly attempts: number;
  readonly hits: number;
}

export interface Findings {
  readonly sites: readonly Site[];
  readonly nearMisses: readonly NearMiss[];
  readonly statistics: readonly FormStatistics[];
}

/**
 * Finds every place of a model that computes attention or what another custom operator computes, in subgraphs and
 * function bodies too, and those that nearly do. The bodies of this project's own operators are left out.
 */
export function findSites(graph: ModelGraph): Findings {
  const context = contextOf(graph, 'filled');
  const atStart = onceNeeded(() => contextOf(graph, 'empty'));
  const bodies = [...graph.functions]
    .filter(([name]) => !name.startsWith(`${DOMAIN}::`))
    .map(([, body]) => body);
  const nodes = [graph.main, ...bodies].flatMap(root =>
    [...root.withSubgraphs()].flatMap(scope => scope.nodes),
  );
  const counts = new Map(SOURCE_FORMS.map(form => [form, { attempts: 0, hits: 0 }]));
  const sites: Site[] = [];
  const nearMisses: (NearMiss & { readonly at: Node })[] = [];
  const explained = new Set<Node>();
  const tell = (form: SourceForm, miss: Miss) => {
    const { node, reason } = miss;
    nearMisses.push({ node: node.name || node.label, pattern: form.name, reason, at: node });
    for (const node of miss.nodes) explained.add(node);
  };
  for (const node of nodes) {
    // The first form that recognizes a place has it; those that came near tell why, unless it is replaced.
    const missed: (readonly [SourceForm, Miss])[] = [];
    for (const form of SOURCE_FORMS.filter(({ anchors }) => anchors.includes(node.type))) {
      const count = counts.get(form)!;
      count.attempts++;
      const found = attemptInBranch(form, node, context, atStart);
      if ('near' in found) {
        if (found.near) missed.push([form, found]);
        continue;
      }
      count.hits++;
      sites.push(found.site);
      for (const member of found.nodes) explained.add(member);
      if (found.site.replaceable) missed.length = 0;
      break;
    }
    for (const [form, miss] of missed) tell(form, miss);
  }
  for (const node of nodes) {
    for (const form of SOURCE_FORMS) {
      if (explained.has(node) || form.marks?.includes(node.type) !== true) continue;
      const miss = explanation(form, node, context);
      if (miss !== null) tell(form, miss);
    }
  }
  const statistics = [...counts].map(([form, count]) => ({ pattern: form.name, ...count }));
  const replaced = new Set(sites.filter(({ replaceable }) => replaceable).flatMap(site => site.nodes));
  return {
    sites: withUniqueIds(outermost(sites)),
    // What a site around it replaces needs no explanation.
    nearMisses: nearMisses.filter(({ at }) => !replaced.has(at)).map(({ at: _, ...miss }) => miss),
    statistics,
  };
}

type Found = { readonly site: Site; readonly nodes: Iterable<Node> } | Miss;

/**
 * A decoder that merges first and later steps takes one branch or the other. What is not understood in a
 * branch that has no use for the cache is looked at as it runs, with the cache empty.
 */
function attemptInBranch(
  form: SourceForm,
  node: Node,
  context: FormContext,
  atStart: () => FormContext,
): Found {
  const found = attempt(form, node, context);
  const settled = 'site' in found && (found.site.replaceable || found.site.past);
  if (settled || node.graph.owner?.node.type !== 'If') return found;
  const again = attempt(form, node, atStart());
  return 'site' in again && again.site.replaceable ? again : found;
}

function attempt(form: SourceForm, node: Node, context: FormContext): Found {
  const attention = recognizeIn(form, node, context);
  if (isMiss(attention)) return attention;
  const miss = (reason: string): Miss => ({ node, reason, near: true, nodes: [...attention.nodes] });
  try {
    const site = isFusion(attention)
      ? describeFusion(form.name, attention, context.laboratory)
      : describeSite(form.name, attention, context);
    return typeof site === 'string' ? miss(site) : { site, nodes: attention.nodes };
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return miss(error.message);
  }
}

function recognizeIn(form: SourceForm, node: Node, context: FormContext): Attention | Fusion | Miss {
  try {
    return form.recognize(node, context);
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return { node, reason: error.message, near: true, nodes: [node] };
  }
}

/** What a form has to say about a node that nothing was recognized around; null where values stay unknown. */
function explanation(form: SourceForm, node: Node, context: FormContext): Miss | null {
  try {
    return form.explain?.(node, context) ?? null;
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return null;
  }
}

function contextOf(graph: ModelGraph, cache: 'filled' | 'empty'): FormContext {
  const laboratory = new Laboratory(graph, cache);
  return { graph, laboratory, masks: new MaskInspector(laboratory, graph.constants) };
}

function onceNeeded<T>(make: () => T): () => T {
  let made: T | null = null;
  return () => {
    made ??= make();
    return made;
  };
}

/** Sites but for those that a replaceable site around them makes away with: what keys are made by, say. */
function outermost(sites: readonly Site[]): Site[] {
  const around = new Map<Node, Site[]>();
  for (const site of sites.filter(({ replaceable }) => replaceable)) {
    for (const node of site.nodes) around.set(node, [...(around.get(node) ?? []), site]);
  }
  return sites.filter(
    site =>
      !around
        .get(site.nodes[0]!)
        ?.some(
          other =>
            other.nodes.length > site.nodes.length && site.nodes.every(node => other.nodes.includes(node)),
        ),
  );
}

/** Ids are scopes where there are any, numbered where a layer holds several sites. */
function withUniqueIds(sites: readonly Site[]): Site[] {
  const seen = new Map<string, number>();
  return sites.map(site => {
    const base = site.scope ?? site.id;
    const count = (seen.get(base) ?? 0) + 1;
    seen.set(base, count);
    return { ...site, id: count === 1 ? base : `${base}#${count}` };
  });
}
