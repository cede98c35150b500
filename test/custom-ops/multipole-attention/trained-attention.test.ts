import assert from 'node:assert/strict';
import * as node from 'onnxruntime-node';
import {
  defaultParameters,
  type MultipoleParameters,
} from '../../../custom-ops/multipole-attention/parameters.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/reference.js';
import { relativeError } from '../../comparison.js';
import { trainedHead } from '../../fixtures/trained-attention.js';
import { bodyChoices } from './body-choices.js';
import { BodySessions } from './body-sessions.js';
import { assertSame } from './comparison.js';

/** Eight segments on 512 tokens, as many as a few thousand tokens have by default. */
function parametersOf(
  model: 'encoder' | 'causal',
  changes: Partial<MultipoleParameters>,
): MultipoleParameters {
  const sizes = { segment: 64, keyClusters: 8, queryClusters: 16, retrieve: [8], retrieveError: 0 };
  return { ...defaultParameters(model === 'causal'), ...sizes, ...changes };
}

describe('MultipoleAttention on trained heads', () => {
  const sessions = new BodySessions(node);
  after(() => sessions.release());

  for (const model of ['encoder', 'causal'] as const) {
    const inputs = trainedHead(model);
    const exact = multipoleAttention(inputs, parametersOf(model, { retrieve: [-1] })).output.data;
    const errorOf = (changes: Partial<MultipoleParameters>) =>
      relativeError(multipoleAttention(inputs, parametersOf(model, changes)).output.data, exact);

    for (const keyGrouping of ['kmeans', 'contiguous'] as const) {
      it(`${model}, ${keyGrouping}: the body agrees with the reference under equal choices`, async () => {
        const parameters = parametersOf(model, { keyGrouping });
        const { result, choices } = await bodyChoices(sessions, parameters, inputs);
        assertSame(result, multipoleAttention(inputs, parameters, choices), 1e-5);
      });

      it(`${model}, ${keyGrouping}: the body is as near to exact attention as the reference`, async () => {
        const { output } = await sessions.run(parametersOf(model, { keyGrouping }), inputs);
        assert.ok(relativeError(output.data, exact) <= 1.05 * errorOf({ keyGrouping }));
      });
    }

    it(`${model}: summaries of far keys, then retrieval, then all clusters each bring it nearer to exact attention`, () => {
      const summaries = errorOf({ retrieve: [0] });
      const retrieved = errorOf({});
      const all = errorOf({ retrieve: [64] });
      assert.ok(summaries < 0.5, `summaries alone: ${summaries}`);
      assert.ok(retrieved < 0.7 * summaries, `with retrieval: ${retrieved}`);
      assert.ok(all < 1e-6, `all clusters: ${all}`);
    });
  }
});
