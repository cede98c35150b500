import assert from 'node:assert/strict';
import { multiLevelAttention } from '../../custom-ops/multi-level-attention/operator.js';
import { SeededRandom } from '../../custom-ops/seeded-random.js';
import { InputError } from '../../rewriter/errors.js';
import { decodeModel } from '../../rewriter/onnx/decode.js';
import { editModel, type ModelEdit } from '../../rewriter/onnx/edit.js';
import type { ModelInfo } from '../../rewriter/onnx/model-info.js';
import { DataType } from '../../rewriter/onnx/spec.js';
import { readTensorData } from '../../rewriter/onnx/tensor-data.js';
import { writeToMemory } from '../../rewriter/onnx/write.js';
import { decideUniformly } from '../../rewriter/plan.js';
import type { PlacedRotation } from '../../rewriter/replacement-nodes.js';
import { rewriteModel } from '../../rewriter/rewrite-model.js';
import { tinyTransformer } from '../cli/tiny-transformer.js';
import { randomRotation } from '../custom-ops/random-rotation.js';
import { node } from './onnx/builders.js';

/** That outputs stay the same is tested on every fixture of the zoo. */
describe('rotated query and key', () => {
  it('come from rotated weights where a linear layer makes nothing else of them', () => {
    const { before, after } = rewrite(tinyTransformer({ layers: 1 }).model, 'weights');
    const rotated = readBy(after, ['blocks.0.q.weight', 'blocks.0.k.weight']);
    assert.deepEqual(
      rotated,
      ['Reshape', 'Reshape'],
      'what the layers multiply with comes from the stored weights',
    );
    assert.deepEqual(products(after, 'hidden.0'), 3, 'one product each for query, key and value');
    assert.equal(matMulsOnValues(after), 0);
    assertSameWeights(before, after);
  });

  it('are rotated themselves where that is asked for', () => {
    const { before, after } = rewrite(tinyTransformer({ layers: 1 }).model, 'values');
    assert.deepEqual(readBy(after, ['blocks.0.q.weight', 'blocks.0.k.weight']), ['MatMul', 'MatMul']);
    assert.equal(matMulsOnValues(after), 2);
    assertSameWeights(before, after);
  });

  it('are rotated themselves where something else reads what the layer computes', () => {
    const model = decodeModel(tinyTransformer({ layers: 1 }).model);
    const edits: ModelEdit[] = [
      {
        kind: 'insert-nodes',
        into: model.graph,
        before: null,
        nodes: [node('Identity', ['/blocks.0/attn/q_projected'], ['seen'])],
      },
      { kind: 'add-output', to: model.graph, name: 'seen' },
    ];
    const { before, after } = rewrite(writeToMemory(model.source, editModel(model, edits)), 'weights');
    assert.deepEqual(readBy(after, ['blocks.0.q.weight', 'blocks.0.k.weight']), ['MatMul', 'Reshape']);
    assert.equal(products(after, 'hidden.0'), 3);
    assert.equal(matMulsOnValues(after), 1);
    assertSameWeights(before, after);
  });

  it('are not left out: an operator that is not calibrated is refused', () => {
    const { model } = tinyTransformer({ layers: 1 });
    assert.throws(
      () => rewriteModel(model, sites => decideUniformly(sites, choice, null)),
      (error: unknown) => error instanceof InputError && /blocks.0.attn: .*calibrated/.test(error.message),
    );
  });
});

const choice = { operator: multiLevelAttention, settings: {}, selects: () => true };

function rewrite(model: Uint8Array, place: PlacedRotation['place']) {
  const random = new SeededRandom(3);
  const { model: rewritten } = rewriteModel(model, sites =>
    decideUniformly(sites, choice, null).map(decision => {
      const rotation = { ...randomRotation(4, 8, random), place };
      return { ...decision, replacement: { ...decision.replacement!, rotation } };
    }),
  );
  return { before: decodeModel(model), after: decodeModel(rewritten) };
}

/** Types of the nodes that read these values. */
function readBy({ graph }: ModelInfo, names: readonly string[]): string[] {
  return names.flatMap(name => graph.nodes.filter(({ inputs }) => inputs.includes(name)).map(n => n.opType));
}

function products({ graph }: ModelInfo, value: string): number {
  return graph.nodes.filter(({ opType, inputs }) => opType === 'MatMul' && inputs[0] === value).length;
}

/** Products with a rotation that do not follow from weights alone. */
function matMulsOnValues({ graph }: ModelInfo): number {
  const rotations = graph.nodes
    .filter(({ name }) => /_rotation\/Constant$/.test(name))
    .map(n => n.outputs[0]);
  return graph.nodes.filter(
    ({ opType, name, inputs }) =>
      opType === 'MatMul' && !name.includes('weights') && rotations.includes(inputs[1]!),
  ).length;
}

/** Every stored tensor is still there, byte for byte. */
function assertSameWeights(before: ModelInfo, after: ModelInfo): void {
  const floats = before.graph.initializers.filter(({ dataType }) => dataType === DataType.FLOAT);
  for (const tensor of floats.filter(({ name }) => name.endsWith('weight'))) {
    const same = after.graph.initializers.find(({ name }) => name === tensor.name);
    assert.ok(same, tensor.name);
    assert.deepEqual(readTensorData(same, after, 1e6), readTensorData(tensor, before, 1e6));
  }
}
