import type { TunableSite } from '../../../cli/tune/tunable-model.js';
import { multipoleTuningSpace } from '../../../custom-ops/multipole-attention/tuning-space.js';
import { findSites } from '../../../rewriter/find-sites.js';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { decodeModel } from '../../../rewriter/onnx/decode.js';
import type { AttentionSite } from '../../../rewriter/site.js';
import { tinyTransformer } from '../tiny-transformer.js';

/** An attention site as a model has it, under another id and number of heads. */
export function tunableSite(id: string, queryHeads: number, causal = false): TunableSite {
  const graph = new ModelGraph(decodeModel(tinyTransformer({ layers: 1, causal }).model));
  const [site] = findSites(graph).sites as readonly AttentionSite[];
  return { site: { ...site!, id, queryHeads }, spaces: [multipoleTuningSpace] };
}
