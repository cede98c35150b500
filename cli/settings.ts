import type { AttributeDefinition, AttributeValue, OperatorDefinition } from '../custom-ops/operator.js';
import { InputError } from '../rewriter/errors.js';
import type { Settings } from '../rewriter/plan.js';

/**
 * The settings of a preset, overridden by `key=value` assignments.
 * @throws InputError for an unknown preset or attribute, or a value of the wrong type
 */
export function settingsOf(
  operator: OperatorDefinition,
  preset: string,
  assignments: readonly string[],
): Settings {
  if (!Object.hasOwn(operator.presets, preset)) {
    throw new InputError(`${operator.id} has no preset "${preset}"`, {
      remedy: `Its presets are ${Object.keys(operator.presets).join(', ')}.`,
    });
  }
  return {
    ...operator.presets[preset],
    ...Object.fromEntries(assignments.map(text => parseAssignment(operator, text))),
  };
}

function parseAssignment(operator: OperatorDefinition, text: string): [string, AttributeValue] {
  const split = text.indexOf('=');
  if (split < 1) {
    throw new InputError(`--set: "${text}" is not an assignment`, { remedy: 'Write --set name=value.' });
  }
  const name = text.slice(0, split);
  const definition = operator.attributes.find(attribute => attribute.name === name);
  if (definition === undefined) {
    throw new InputError(`--set: ${operator.id} has no attribute "${name}"`, {
      remedy: `Its attributes are ${operator.attributes.map(attribute => attribute.name).join(', ')}.`,
    });
  }
  return [name, parseValue(definition, text.slice(split + 1))];
}

function parseValue({ name, type, description }: AttributeDefinition, text: string): AttributeValue {
  if (type === 'string') return text;
  const numbers = text.split(',').map(part => (part.trim() === '' ? Number.NaN : Number(part)));
  const whole = type === 'int' || type === 'ints';
  if (numbers.every(number => (whole ? Number.isInteger(number) : Number.isFinite(number)))) {
    if (type === 'ints' || type === 'floats') return numbers;
    if (numbers.length === 1) return numbers[0]!;
  }
  const expected = {
    int: 'an integer',
    float: 'a number',
    ints: 'integers separated by commas',
    floats: 'numbers separated by commas',
  }[type];
  throw new InputError(`--set: ${name} takes ${expected}, not "${text}"`, { remedy: description });
}
