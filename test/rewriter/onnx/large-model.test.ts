import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { concatenate } from '../../../rewriter/onnx/bytes.js';
import { encodeGraph, encodeOpsetImport, field } from '../../../rewriter/onnx/encode.js';
import { GraphField, ModelField, TensorField } from '../../../rewriter/onnx/field-numbers.js';
import { openModelFile } from '../../../rewriter/onnx/model-file.js';
import { DataType, type GraphSpec, type NodeSpec, type TensorSpec } from '../../../rewriter/onnx/spec.js';
import { encodeVarint, WireType } from '../../../rewriter/onnx/wire.js';
import { temporaryFolder } from '../../temporary-folder.js';
import { floats, floatValue, model, node } from './builders.js';

const PROGRAM = fileURLToPath(new URL('rewrite-and-measure.js', import.meta.url));
const MOST_MEMORY = 300e6;
/** Rows and columns of each weight, and its bytes in float32. */
const WIDTH = 4096;
const WEIGHT_BYTES = WIDTH * WIDTH * 4;

function rewriteAndMeasure(
  file: string,
  output: string,
): { readonly sites: number; readonly peakBytes: number } {
  return JSON.parse(execFileSync(process.execPath, [PROGRAM, file, output], { encoding: 'utf8' }));
}

/** Products with large weights, beside one attention of 2 heads of size 4. */
function largeGraph(weights: readonly string[], initializers: readonly TensorSpec[]): GraphSpec {
  const product = (i: number) => (i === weights.length ? 'z' : `x${i}`);
  const perm: NodeSpec['attributes'] = { perm: { type: 'ints', value: [0, 1, 3, 2] } };
  return {
    name: 'large',
    inputs: [floatValue('x0', 'n', WIDTH), ...['q', 'k', 'v'].map(name => floatValue(name, 'b', 2, 's', 4))],
    outputs: [floatValue('z', 'n', WIDTH), floatValue('y', 'b', 2, 's', 4)],
    initializers: [floats('scale', [], [0.5]), ...initializers],
    nodes: [
      ...weights.map((name, i) => node('MatMul', [product(i), name], [product(i + 1)])),
      node('Transpose', ['k'], ['kt'], perm),
      node('MatMul', ['q', 'kt'], ['products']),
      node('Mul', ['products', 'scale'], ['scores']),
      node('Softmax', ['scores'], ['probabilities'], { axis: { type: 'int', value: -1 } }),
      node('MatMul', ['probabilities', 'v'], ['y']),
    ],
  };
}

function operatorsOf(file: string): string[] {
  const { model: info, close } = openModelFile(file);
  close();
  return info.graph.nodes.map(({ opType }) => opType);
}

describe('models larger than the memory they take', () => {
  const folder = temporaryFolder();

  it('rewrites a model with 3 GB of external data in less than 300 MB', () => {
    const weights = Array.from({ length: 48 }, (_, i) => `w${i}`);
    const size = weights.length * WEIGHT_BYTES;
    assert.ok(size >= 3e9);
    const initializers = weights.map((name, i) => ({
      name,
      dataType: DataType.FLOAT,
      dims: [WIDTH, WIDTH],
      external: { location: 'weights.bin', offset: i * WEIGHT_BYTES, length: WEIGHT_BYTES },
    }));
    const file = join(folder(), 'model.onnx');
    writeFileSync(file, model(largeGraph(weights, initializers)));
    writeFileSync(join(folder(), 'weights.bin'), '');
    truncateSync(join(folder(), 'weights.bin'), size);
    mkdirSync(join(folder(), 'out'));

    const output = join(folder(), 'out', 'model.onnx');
    const { sites, peakBytes } = rewriteAndMeasure(file, output);
    assert.equal(sites, 1);
    assert.ok(peakBytes < MOST_MEMORY, `${Math.round(peakBytes / 1e6)} MB`);
    assert.deepEqual(operatorsOf(output), [...weights.map(() => 'MatMul'), 'ExactAttention']);
    assert.equal(statSync(join(folder(), 'out', 'weights.bin')).size, size);
  });

  it('rewrites a model with 600 MB of weights inside in less than 300 MB', () => {
    const file = join(folder(), 'model.onnx');
    writeSparse(file, 600e6);
    const output = join(folder(), 'out.onnx');
    const { sites, peakBytes } = rewriteAndMeasure(file, output);
    assert.equal(sites, 1);
    assert.ok(peakBytes < MOST_MEMORY, `${Math.round(peakBytes / 1e6)} MB`);
    assert.ok(statSync(output).size > 600e6);
    assert.deepEqual(operatorsOf(output), ['ExactAttention']);
  });
});

/** The attention of `largeGraph` and an initializer that is a hole in the file, at the end of the graph. */
function writeSparse(file: string, length: number): void {
  const lengthDelimited = (number: number, size: number) =>
    concatenate([encodeVarint(number * 8 + WireType.bytes), encodeVarint(size)]);
  const tensor = concatenate([
    Uint8Array.of(TensorField.dataType * 8, DataType.UINT8, TensorField.dims * 8),
    encodeVarint(length),
    ...field(TensorField.name, [new TextEncoder().encode('weights')]),
    lengthDelimited(TensorField.rawData, length),
  ]);
  const spec = largeGraph([], []);
  const attention = { ...spec, inputs: spec.inputs.slice(1), outputs: spec.outputs.slice(1) };
  const graph = concatenate([
    ...encodeGraph(attention),
    lengthDelimited(GraphField.initializer, tensor.length + length),
    tensor,
  ]);
  const head = concatenate([
    Uint8Array.of(ModelField.irVersion * 8, 8),
    ...field(ModelField.opsetImport, [encodeOpsetImport('', 17)]),
    lengthDelimited(ModelField.graph, graph.length + length),
    graph,
  ]);
  writeFileSync(file, head);
  truncateSync(file, head.length + length);
}
