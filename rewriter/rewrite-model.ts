import { applyRewrite } from './apply.js';
import { findSites } from './find-sites.js';
import { ModelGraph } from './graph/model-graph.js';
import { decodeModel } from './onnx/decode.js';
import { withoutDescriptions } from './onnx/descriptions.js';
import { editModel } from './onnx/edit.js';
import type { Sidecars } from './onnx/model-info.js';
import { writeToMemory } from './onnx/write.js';
import type { Decision } from './plan.js';
import type { NearMiss, Site } from './site.js';

export interface RewrittenModel {
  /** The rewritten model; equal to the input, byte for byte, when no site is replaced. */
  readonly model: Uint8Array<ArrayBuffer>;
  readonly decisions: readonly Decision[];
  readonly nearMisses: readonly NearMiss[];
}

/**
 * Rewrites a model in memory. Models with files of external data keep them: the result names the same files.
 * @param model bytes of the .onnx file
 * @param decide what to do with the sites, for instance by `decideUniformly` or `decideByPlan`
 * @param options `file` names the model in messages; `sidecars` opens its external data; `stripMetadata` leaves out
 *   what exporters write beside the model, as `onnx/descriptions.ts` lists it
 * @throws InputError when the model is damaged
 */
export function rewriteModel(
  model: Uint8Array,
  decide: (sites: readonly Site[]) => readonly Decision[],
  options: {
    readonly file?: string;
    readonly sidecars?: Sidecars;
    readonly stripMetadata?: boolean;
  } = {},
): RewrittenModel {
  const graph = new ModelGraph(decodeModel(model, options));
  const { sites, nearMisses } = findSites(graph);
  const decisions = decide(sites);
  const replacements = decisions.flatMap(({ replacement }) => (replacement === null ? [] : [replacement]));
  const { edits } = applyRewrite(graph, replacements);
  const { model: info } = graph;
  const stripped = options.stripMetadata === true ? withoutDescriptions(info) : [];
  const segments = editModel(info, [...edits, ...stripped]);
  return { model: writeToMemory(info.source, segments), decisions, nearMisses };
}
