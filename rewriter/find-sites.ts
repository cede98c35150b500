import { describeSite } from './describe-site.js';
import type { ModelGraph } from './graph/model-graph.js';
import type { Node } from './graph/node.js';
import { SOURCE_FORMS } from './patterns/index.js';
import { type FormContext, isMiss, type Miss, type SourceForm } from './patterns/source-form.js';
import { Laboratory } from './probe/laboratory.js';
import { UnknownSample } from './probe/sample.js';
import type { AttentionSite, NearMiss } from './site.js';

/** How often a form was tried and how often it was right. */
export interface FormStatistics {
  readonly pattern: string;
  readonly attempts: number;
  readonly hits: number;
}

export interface Findings {
  readonly sites: readonly AttentionSite[];
  readonly nearMisses: readonly NearMiss[];
  readonly statistics: readonly FormStatistics[];
}

/** Finds every place of a model, subgraphs included, that computes attention, and those that nearly do. */
export function findSites(graph: ModelGraph): Findings {
  const context: FormContext = { graph, laboratory: new Laboratory(graph) };
  const nodes = [...graph.main.withSubgraphs()].flatMap(scope => scope.nodes);
  const counts = new Map(SOURCE_FORMS.map(form => [form, { attempts: 0, hits: 0 }]));
  const sites: AttentionSite[] = [];
  const nearMisses: NearMiss[] = [];
  const explained = new Set<Node>();
  const tell = (form: SourceForm, miss: Miss) => {
    nearMisses.push({ node: miss.node.name || miss.node.label, pattern: form.name, reason: miss.reason });
    for (const node of miss.nodes) explained.add(node);
  };
  for (const node of nodes) {
    for (const form of SOURCE_FORMS.filter(({ anchors }) => anchors.includes(node.type))) {
      const count = counts.get(form)!;
      count.attempts++;
      const found = attempt(form, node, context);
      if ('near' in found) {
        if (found.near) tell(form, found);
        continue;
      }
      count.hits++;
      sites.push(found.site);
      for (const member of found.nodes) explained.add(member);
    }
  }
  for (const node of nodes) {
    for (const form of SOURCE_FORMS) {
      if (explained.has(node) || form.marks?.includes(node.type) !== true) continue;
      const miss = form.explain?.(node, context) ?? null;
      if (miss !== null) tell(form, miss);
    }
  }
  const statistics = [...counts].map(([form, count]) => ({ pattern: form.name, ...count }));
  return { sites: withUniqueIds(sites), nearMisses, statistics };
}

function attempt(
  form: SourceForm,
  node: Node,
  context: FormContext,
): { readonly site: AttentionSite; readonly nodes: Iterable<Node> } | Miss {
  try {
    const attention = form.recognize(node, context);
    if (isMiss(attention)) return attention;
    const site = describeSite(form.name, attention, context);
    if (typeof site !== 'string') return { site, nodes: attention.nodes };
    return { node, reason: site, near: true, nodes: [...attention.nodes] };
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return { node, reason: error.message, near: true, nodes: [node] };
  }
}

/** Ids are scopes where there are any, numbered where a layer holds several sites. */
function withUniqueIds(sites: readonly AttentionSite[]): AttentionSite[] {
  const seen = new Map<string, number>();
  return sites.map(site => {
    const base = site.scope ?? site.id;
    const count = (seen.get(base) ?? 0) + 1;
    seen.set(base, count);
    return { ...site, id: count === 1 ? base : `${base}#${count}` };
  });
}
