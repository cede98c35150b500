import { caseInputs, LOCAL_CASES } from '../../../custom-ops/local-attention/cases.js';
import { localAttention } from '../../../custom-ops/local-attention/reference.js';
import { defaultParameters } from '../../../custom-ops/multipole-attention/parameters.js';
import { multipoleAttention } from '../../../custom-ops/multipole-attention/reference.js';
import type { Tensor } from '../../../custom-ops/operator.js';
import { assertClose } from '../../comparison.js';
import { sequenceRows } from '../multipole-attention/sequence-rows.js';

const EXACT = 1e-6;

describe('LocalAttention reference', () => {
  const inputs = caseInputs(LOCAL_CASES.find(({ name }) => name === 'acausal grouped heads')!);
  const length = inputs.query.dims[2]!;
  const unlimited = { scale: null, left: null, right: null, offset: null };

  for (const causal of [false, true]) {
    it(`is standard attention where the window has no limit (${causal ? 'causal' : 'acausal'})`, () => {
      const exact = multipoleAttention(inputs, { ...defaultParameters(causal), retrieve: [-1] });
      for (const left of [null, length]) {
        const { output, lse } = localAttention(inputs, {
          ...unlimited,
          left,
          right: causal ? 0 : null,
        });
        assertClose(output.data, exact.output.data, EXACT, 'output');
        assertClose(lse.data, exact.lse.data, EXACT, 'lse');
      }
    });
  }

  it('is standard attention of a row to the keys of its window', () => {
    const [left, right] = [7, 3];
    const { output } = localAttention(inputs, { ...unlimited, left, right });
    for (const row of [0, 1, 7, 8, 50, length - 4, length - 1]) {
      const window = (tensor: Tensor) =>
        sequenceRows(tensor, Math.max(0, row - left), Math.min(length, row + right + 1));
      const alone = multipoleAttention(
        {
          query: sequenceRows(inputs.query, row, row + 1),
          key: window(inputs.key),
          value: window(inputs.value),
        },
        { ...defaultParameters(false), retrieve: [-1] },
      );
      assertClose(sequenceRows(output, row, row + 1).data, alone.output.data, EXACT, `row ${row}`);
    }
  });
});
