import { peakMemory } from '../../../cli/peak-memory.js';
import { applyRewrite } from '../../../rewriter/apply.js';
import { findSites } from '../../../rewriter/find-sites.js';
import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { editModel } from '../../../rewriter/onnx/edit.js';
import { openModelFile } from '../../../rewriter/onnx/model-file.js';
import { saveModel } from '../../../rewriter/onnx/save-model.js';
import { EXACT_ATTENTION } from '../exact-attention.js';

/**
 * A program of its own, so that its memory can be measured: replaces the attention of a model.
 * Arguments: model, output. Prints how many sites it replaced and its peak memory in bytes, as JSON.
 */
const [file, output] = process.argv.slice(2) as [string, string];
const input = openModelFile(file);
const graph = new ModelGraph(input.model);
const { sites } = findSites(graph);
const { edits } = applyRewrite(
  graph,
  sites.map(site => ({ site, operator: EXACT_ATTENTION, attributes: EXACT_ATTENTION.resolve(site, {}) })),
);
await saveModel(input, editModel(input.model, edits), output, { externalData: 'link' });
input.close();
console.log(JSON.stringify({ sites: sites.length, peakBytes: peakMemory() }));
