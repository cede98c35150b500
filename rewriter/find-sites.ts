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

/** Nodes that a partial match needs before it is worth telling: the product with the values and the softmax. */
const NEAR = 2;

/** Finds every place of a model, subgraphs included, that computes attention, and those that nearly do. */
export function findSites(graph: ModelGraph): Findings {
  const context: FormContext = { graph, laboratory: new Laboratory(graph) };
  const sites: AttentionSite[] = [];
  const misses: (NearMiss & { readonly at: Node })[] = [];
  const counts = SOURCE_FORMS.map(form => ({ form, attempts: 0, hits: 0 }));
  for (const scope of graph.main.withSubgraphs()) {
    for (const node of scope.nodes) {
      for (const count of counts) {
        if (!count.form.anchors.includes(node.type)) continue;
        count.attempts++;
        const found = attempt(count.form, node, context);
        if ('matched' in found) {
          if (found.matched >= NEAR) {
            misses.push({ at: node, node: found.node.name, pattern: count.form.name, reason: found.reason });
          }
          continue;
        }
        count.hits++;
        sites.push(found);
        break;
      }
    }
  }
  return {
    sites: withUniqueIds(sites),
    nearMisses: misses.map(({ node, pattern, reason }) => ({ node, pattern, reason })),
    statistics: counts.map(({ form, attempts, hits }) => ({ pattern: form.name, attempts, hits })),
  };
}

function attempt(form: SourceForm, node: Node, context: FormContext): AttentionSite | Miss {
  try {
    const attention = form.recognize(node, context);
    if (isMiss(attention)) return attention;
    const site = describeSite(form.name, attention, context);
    return typeof site === 'string' ? { node, reason: site, matched: attention.nodes.size } : site;
  } catch (error) {
    if (!(error instanceof UnknownSample)) throw error;
    return { node, reason: error.message, matched: NEAR };
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
