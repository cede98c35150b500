import assert from 'node:assert/strict';
import { type SiteValidation, type Validation, within, worstIsolated } from '../../rewriter/validation.js';
import { measured } from './example-report.js';

function validation(...errors: readonly (number | null)[]): Validation {
  const lengths = errors.map(isolated => ({ sites: [{ id: 'a', isolated } as SiteValidation] }));
  return { lengths } as unknown as Validation;
}

describe('validation', () => {
  it('passes errors up to the budget, and none that could not be measured', () => {
    assert.ok(within(measured(0.02), 0.02));
    assert.ok(!within(measured(0.020001), 0.02));
    assert.ok(!within(measured(null, 1), Number.POSITIVE_INFINITY));
  });

  it('tells the largest isolated error of a site over all lengths', () => {
    assert.equal(worstIsolated(validation(0.1, 0.3, null, 0.2), 'a'), 0.3);
    assert.equal(worstIsolated(validation(null), 'a'), null);
    assert.equal(worstIsolated(validation(0.1), 'b'), null);
  });
});
