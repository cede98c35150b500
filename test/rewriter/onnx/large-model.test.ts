import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { concatenate } from '../../../rewriter/onnx/bytes.js';
import { encodeGraph, field } from '../../../rewriter/onnx/encode.js';
import { GraphField, ModelField, TensorField } from '../../../rewriter/onnx/field-numbers.js';
import { openModelFile } from '../../../rewriter/onnx/model-file.js';
import { DataType, type GraphSpec, type TensorSpec } from '../../../rewriter/onnx/spec.js';
import { encodeVarint, WireType } from '../../../rewriter/onnx/wire.js';
import { temporaryFolder } from '../../temporary-folder.js';
import { floatValue, model, node } from './builders.js';

const PROGRAM = fileURLToPath(new URL('rewrite-and-measure.js', import.meta.url));
const MOST_MEMORY = 300e6;
const GIGABYTE = 2 ** 30;

interface Measured {
  readonly nodes: number;
  readonly peakBytes: number;
}

function rewriteAndMeasure(file: string, output: string): Measured {
  return JSON.parse(execFileSync(process.execPath, [PROGRAM, file, output], { encoding: 'utf8' }));
}

/** A chain of additions of large tensors. */
function chain(initializers: readonly TensorSpec[]): GraphSpec {
  const value = (i: number) => (i === initializers.length ? 'y' : `x${i}`);
  return {
    name: 'chain',
    inputs: [floatValue('x0', 'n')],
    outputs: [floatValue('y', 'n')],
    initializers,
    nodes: initializers.map(({ name = '' }, i) => node('Add', [value(i), name], [value(i + 1)])),
  };
}

describe('models larger than the memory they take', () => {
  const folder = temporaryFolder();

  it('rewrites a model with 3 GB of external data in less than 300 MB', () => {
    const count = 48;
    const length = (3 * GIGABYTE) / count;
    const initializers = Array.from({ length: count }, (_, i) => ({
      name: `w${i}`,
      dataType: DataType.FLOAT,
      dims: [length / 4],
      external: { location: 'weights.bin', offset: i * length, length },
    }));
    const file = join(folder(), 'model.onnx');
    writeFileSync(file, model(chain(initializers)));
    writeFileSync(join(folder(), 'weights.bin'), '');
    truncateSync(join(folder(), 'weights.bin'), 3 * GIGABYTE);
    mkdirSync(join(folder(), 'out'));

    const { nodes, peakBytes } = rewriteAndMeasure(file, join(folder(), 'out', 'model.onnx'));
    assert.equal(nodes, count);
    assert.ok(peakBytes < MOST_MEMORY, `${Math.round(peakBytes / 1e6)} MB`);
    const written = openModelFile(join(folder(), 'out', 'model.onnx'));
    assert.deepEqual(
      written.model.graph.nodes.map(({ opType }) => opType),
      ['Mul', ...Array.from({ length: count - 1 }, () => 'Add')],
    );
    written.close();
    assert.equal(statSync(join(folder(), 'out', 'weights.bin')).size, 3 * GIGABYTE);
  });

  it('rewrites a model with 600 MB of weights inside in less than 300 MB', () => {
    const length = 600e6;
    const file = join(folder(), 'model.onnx');
    writeSparse(file, length);
    const output = join(folder(), 'out.onnx');
    const { peakBytes } = rewriteAndMeasure(file, output);
    assert.ok(peakBytes < MOST_MEMORY, `${Math.round(peakBytes / 1e6)} MB`);
    const written = openModelFile(output);
    assert.equal(written.model.graph.initializers[0]?.storage.kind, 'raw');
    assert.deepEqual(
      written.model.graph.nodes.map(({ opType }) => opType),
      ['Mul'],
    );
    written.close();
  });
});

/** y = x0 + w0 with the weights as a hole in the file, at the end of the graph. */
function writeSparse(file: string, length: number): void {
  const lengthDelimited = (number: number, size: number) =>
    concatenate([encodeVarint(number * 8 + WireType.bytes), encodeVarint(size)]);
  const tensor = concatenate([
    Uint8Array.of(TensorField.dataType * 8, DataType.UINT8, TensorField.dims * 8),
    encodeVarint(length),
    ...field(TensorField.name, [new TextEncoder().encode('w0')]),
    lengthDelimited(TensorField.rawData, length),
  ]);
  const rest = chain([{ name: 'w0', dataType: DataType.UINT8, dims: [], data: new Uint8Array(0) }]);
  const graph = concatenate([
    ...encodeGraph({ ...rest, initializers: [] }),
    lengthDelimited(GraphField.initializer, tensor.length + length),
    tensor,
  ]);
  const head = concatenate([
    Uint8Array.of(ModelField.irVersion * 8, 8),
    lengthDelimited(ModelField.graph, graph.length + length),
    graph,
  ]);
  writeFileSync(file, head);
  truncateSync(file, head.length + length);
}
