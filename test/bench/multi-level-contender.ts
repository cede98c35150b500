import type { InferenceSession as Session } from 'onnxruntime-common';
import type { MultiLevelParameters } from '../../custom-ops/multi-level-attention/parameters.js';
import { InferenceSession, Tensor } from '../../custom-ops/runtime/node/index.js';
import { nodeModel } from '../custom-ops/multi-level-attention/node-session.js';
import type { TrainedHeads } from './byte-model.js';
import type { Contender } from './contenders.js';

/** The native kernel of MultiLevelAttention. */
export async function multiLevel(
  parameters: MultiLevelParameters,
  heads: TrainedHeads,
  options: Session.SessionOptions,
): Promise<Contender> {
  const model = nodeModel(parameters, ['query', 'key', 'value'], { bare: true, outputs: [] });
  const session = await InferenceSession.create(model, options);
  const { native, reason } = session.onnxRewrite;
  if (!native) throw new Error(`needs the native build: ${reason}`);
  const tensor = (data: Float32Array) =>
    new Tensor('float32', data, [1, heads.heads, heads.length, heads.size]);
  const feeds = { query: tensor(heads.query), key: tensor(heads.key), value: tensor(heads.value) };
  return {
    name: `${parameters.ranks.join('|')} at ${parameters.block}`,
    run: async () => (await session.run(feeds)).output!.data as Float32Array,
    release: () => session.release(),
  };
}
