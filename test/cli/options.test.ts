import assert from 'node:assert/strict';
import { InvalidArgumentError } from 'commander';
import { errorBudget, nonNegativeInteger, positiveInteger, threadCount, tokens } from '../../cli/options.js';
import { settingsOf } from '../../cli/settings.js';
import { multipoleAttention } from '../../custom-ops/multipole-attention/operator.js';
import { InputError } from '../../rewriter/errors.js';

type Parser = (text: string) => number;

/** Parsers with what they take, and what they refuse. */
const PARSERS: Readonly<
  Record<string, readonly [Parser, Readonly<Record<string, number>>, readonly string[]]>
> = {
  positiveInteger: [
    positiveInteger,
    { 1: 1, 12: 12 },
    ['0', '-1', '1.5', '1e3', '0x10', ' 1', '', 'NaN', '9'.repeat(20)],
  ],
  nonNegativeInteger: [nonNegativeInteger, { 0: 0, 7: 7 }, ['-1', '1.5', '1e3', '', '9'.repeat(20)]],
  threadCount: [threadCount, { 1: 1, 1024: 1024 }, ['0', '1025', '9'.repeat(20)]],
  tokens: [tokens, { 512: 512, '8k': 8192, '2K': 2048 }, ['0', '-5', '1e3', 'k', '8m', '', '9'.repeat(20)]],
  errorBudget: [errorBudget, { 0: 0, '0.02': 0.02, '1e-3': 0.001 }, ['-1', 'NaN', '', ' ', 'x']],
};

describe('option values', () => {
  for (const [name, [parse, taken, refused]] of Object.entries(PARSERS)) {
    it(`${name} takes what it is for and refuses the rest`, () => {
      for (const [text, value] of Object.entries(taken)) assert.equal(parse(text), value, text);
      for (const text of refused) assert.throws(() => parse(text), InvalidArgumentError, `"${text}"`);
    });
  }
});

describe('settings of an operator', () => {
  it('are those of the preset, overridden by assignments', () => {
    const { paper } = multipoleAttention.presets;
    assert.deepEqual(settingsOf(multipoleAttention, 'paper', ['order=1', 'retrieve=1,2']), {
      ...paper,
      order: 1,
      retrieve: [1, 2],
    });
  });

  it('refuses presets and attributes that there are none of, and values of another type', () => {
    const wrong: readonly (readonly [preset: string, assignment: string, message: RegExp])[] = [
      ['toString', 'order=1', /no preset "toString"/],
      ['__proto__', 'order=1', /no preset "__proto__"/],
      ['paper', 'order', /not an assignment/],
      ['paper', 'oder=1', /no attribute "oder"/],
      ['paper', 'order=', /takes an integer, not ""/],
      ['paper', 'order=1,2', /takes an integer, not "1,2"/],
      ['paper', 'retrieve_mass=Infinity', /takes .*number.*, not "Infinity"/],
    ];
    for (const [preset, assignment, message] of wrong) {
      assert.throws(
        () => settingsOf(multipoleAttention, preset, [assignment]),
        (error: unknown) =>
          error instanceof InputError && message.test(error.message) && Boolean(error.details.remedy),
        `${preset} ${assignment}`,
      );
    }
  });
});
