import { ModelGraph } from '../../../rewriter/graph/model-graph.js';
import { editModel } from '../../../rewriter/onnx/edit.js';
import { openModelFile } from '../../../rewriter/onnx/model-file.js';
import { saveModel } from '../../../rewriter/onnx/save-model.js';
import { node } from './builders.js';

/**
 * A program of its own, so that its memory can be measured: replaces the first node of a model by Mul.
 * Arguments: model, output. Prints what it saw and its peak memory in bytes as JSON.
 */
const [file, output] = process.argv.slice(2) as [string, string];
const input = openModelFile(file);
const { nodes } = new ModelGraph(input.model).main;
const { graph } = input.model;
const [first] = graph.nodes;
const segments = editModel(input.model, [
  { kind: 'insert-nodes', into: graph, before: first!, nodes: [node('Mul', first!.inputs, first!.outputs)] },
  { kind: 'remove', from: graph, item: first! },
]);
await saveModel(input, segments, output, { externalData: 'link' });
input.close();
console.log(JSON.stringify({ nodes: nodes.length, peakBytes: process.resourceUsage().maxRSS * 1024 }));
