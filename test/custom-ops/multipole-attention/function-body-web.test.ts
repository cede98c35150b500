import * as web from 'onnxruntime-web/wasm';
import { caseInputs, MULTIPOLE_CASES } from '../../../custom-ops/multipole-attention/cases.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/reference.js';
import { BodySessions } from './body-sessions.js';
import { assertSame } from './comparison.js';

/** One case for each kind of node that the body has. */
const CASES = [
  'acausal ragged',
  'acausal contiguous',
  'acausal cluster, masked',
  'acausal retrieve per head, some exact',
  'acausal cross, longer keys',
  'acausal global with retrieval',
  'acausal contracted',
  'acausal dyadic',
  'acausal nothing',
  'causal ragged',
  'causal retrieve mass',
  'causal cluster',
  'causal dyadic, masked',
  'causal chunk with past',
  'causal below exact_below',
];

describe('MultipoleAttention function body in onnxruntime-web (wasm)', () => {
  web.env.wasm.numThreads = 1;
  const sessions = new BodySessions(web);
  after(() => sessions.release());

  for (const shared of MULTIPOLE_CASES.filter(({ name }) => CASES.includes(name))) {
    it(`agrees with the reference: ${shared.name}`, async () => {
      const inputs = caseInputs(shared);
      const result = await sessions.run(shared.parameters, inputs);
      assertSame(result, multipoleAttention(inputs, shared.parameters), 1e-5);
    });
  }
});
