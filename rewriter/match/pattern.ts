import { isFloating } from '../graph/data-type.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';

/**
 * The pattern language. A pattern describes a value by the node that computes it and by that node's inputs in
 * turn, from an output back to the inputs. Patterns are data: a variation is another entry of `oneOf`, never
 * another copy of the pattern.
 */
export type Pattern =
  | { readonly kind: 'any' }
  | BoundPattern
  | ConstantPattern
  | NodePattern
  | ChoicePattern
  | { readonly kind: 'lazy'; readonly pattern: () => Pattern };

interface BoundPattern {
  readonly kind: 'bound';
  readonly name: string;
  readonly pattern: Pattern;
}

interface ConstantPattern {
  readonly kind: 'constant';
  readonly expected: string;
  readonly holds: (value: number) => boolean;
}

interface NodePattern extends NodeOptions {
  readonly kind: 'node';
  readonly types: readonly string[];
  readonly inputs: readonly Pattern[];
}

interface ChoicePattern {
  readonly kind: 'oneOf';
  readonly tag: string;
  readonly alternatives: Readonly<Record<string, Pattern>>;
  /** What messages say was expected where no alternative fits; else they list them all. */
  readonly expected: string | null;
}

interface NodeOptions {
  /** Binds the node. */
  readonly name?: string;
  /** The inputs may come in either order. */
  readonly commutative?: boolean;
  /** Further inputs are allowed and not looked at; without it they have to be absent. */
  readonly more?: boolean;
  /** Says why a node of the right type does not fit (an attribute, say); null when it does. */
  readonly unfit?: (node: Node, rankOf: RankOf) => string | null;
}

/** Rank of a value, or why it is unknown. */
export type RankOf = (value: Value) => number | string;

/** Any value, bound to a name when one is given. */
export function any(name: string | null = null): Pattern {
  return name === null ? { kind: 'any' } : bound(name, { kind: 'any' });
}

/** A value that gets a name; where the name is bound already, the same value again. */
export function bound(name: string, pattern: Pattern): Pattern {
  return { kind: 'bound', name, pattern };
}

/** A constant of one element. `expected` completes "expected ...". */
export function constant(expected: string, holds: (value: number) => boolean): Pattern {
  return { kind: 'constant', expected, holds };
}

/** The first output of a node of one of these types, `domain::name` outside the default domain. */
export function node(
  types: string | readonly string[],
  inputs: readonly Pattern[],
  options: NodeOptions = {},
): Pattern {
  return { kind: 'node', types: typeof types === 'string' ? [types] : types, inputs, ...options };
}

/** The first alternative that matches, tried in order; the match tells which, by tag. */
export function oneOf(
  tag: string,
  alternatives: Readonly<Record<string, Pattern>>,
  expected: string | null = null,
): Pattern {
  return { kind: 'oneOf', tag, alternatives, expected };
}

/** A pattern that refers to itself. */
export function lazy(pattern: () => Pattern): Pattern {
  return { kind: 'lazy', pattern };
}

/**
 * `inner`, looked for behind any number of operators that leave the numbers and their order alone.
 * @param expected what messages say was expected
 */
export function through(inner: Pattern, expected: string): Pattern {
  const outer: Pattern = oneOf(
    'lookedThrough',
    {
      none: inner,
      identity: node('Identity', [lazy(() => outer)]),
      cast: node('Cast', [lazy(() => outer)], { unfit: unfitCast }),
      dropout: node('Dropout', [lazy(() => outer)], { more: true }),
      reshape: node(['Reshape', 'Unsqueeze', 'Squeeze', 'Flatten'], [lazy(() => outer)], { more: true }),
    },
    expected,
  );
  return outer;
}

/** Casts among floating types only round; others change what the numbers mean. */
function unfitCast(node: Node): string | null {
  return isFloating(node.int('to', 0)) ? null : 'casts to a type that is not floating';
}
