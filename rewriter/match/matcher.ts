import type { Constants } from '../graph/constants.js';
import type { Node } from '../graph/node.js';
import type { Value } from '../graph/value.js';
import type { Pattern, RankOf } from './pattern.js';

/** What a pattern matched. */
export interface Match {
  readonly values: ReadonlyMap<string, Value>;
  readonly nodes: ReadonlyMap<string, Node>;
  /** Every node that the pattern names, in the order of matching. */
  readonly matched: readonly Node[];
  /** Alternatives taken, in order; a tag occurs once for each time that its choice was made. */
  readonly choices: readonly {
    readonly tag: string;
    readonly alternative: string;
    readonly node: Node | null;
  }[];
}

/** Where the best partial match ended, and why. */
export interface Mismatch {
  /** Nodes that had matched by then. */
  readonly matched: readonly Node[];
  readonly node: Node | null;
  readonly reason: string;
}

/** Matches `pattern` at a value: the match, or the attempt that got furthest. */
export function match(
  pattern: Pattern,
  value: Value,
  constants: Constants,
  rankOf: RankOf,
): Match | Mismatch {
  return new Matcher(constants, rankOf).run(pattern, value);
}

export function isMatch(result: Match | Mismatch): result is Match {
  return 'choices' in result;
}

/** Backtracking search: what follows a partial match is passed along as `then`, and undone when that fails. */
class Matcher {
  private readonly values = new Map<string, Value>();
  private readonly nodes = new Map<string, Node>();
  private readonly matched: Node[] = [];
  private readonly choices: { tag: string; alternative: string; node: Node | null }[] = [];
  private furthest: { matched: Node[]; value: Value; expected: Set<string>; unfit: string | null } | null =
    null;

  constructor(
    private readonly constants: Constants,
    private readonly rankOf: RankOf,
  ) {}

  run(pattern: Pattern, value: Value): Match | Mismatch {
    let found: Match | null = null;
    this.attempt(pattern, value, () => {
      found = {
        values: new Map(this.values),
        nodes: new Map(this.nodes),
        matched: [...this.matched],
        choices: [...this.choices],
      };
      return true;
    });
    return found ?? this.mismatch();
  }

  private attempt(pattern: Pattern, value: Value, then: () => boolean): boolean {
    switch (pattern.kind) {
      case 'any':
        return then();
      case 'bound': {
        const { name, pattern: inner } = pattern;
        const before = this.values.get(name);
        if (before === undefined)
          return this.bind(this.values, name, value, () => this.attempt(inner, value, then));
        return before === value ? this.attempt(inner, value, then) : this.fail(value, `'${before.name}'`);
      }
      case 'constant': {
        const scalar = this.constants.scalar(value);
        return scalar !== null && pattern.holds(scalar) ? then() : this.fail(value, pattern.expected);
      }
      case 'lazy':
        return this.attempt(pattern.pattern(), value, then);
      case 'oneOf':
        for (const [alternative, inner] of Object.entries(pattern.alternatives)) {
          this.choices.push({ tag: pattern.tag, alternative, node: value.producer });
          if (this.attempt(inner, value, then)) return true;
          this.choices.pop();
        }
        this.reword(pattern.expected, value);
        return false;
      case 'node':
        return this.attemptNode(pattern, value, then);
    }
  }

  private attemptNode(pattern: Pattern & { kind: 'node' }, value: Value, then: () => boolean): boolean {
    const node = value.producer;
    if (node === null || value.slot !== 0 || !pattern.types.includes(node.type)) {
      return this.fail(value, pattern.types.join(' or '));
    }
    const given = node.inputs.slice(0, pattern.inputs.length);
    const surplus = node.inputs.slice(pattern.inputs.length).some(input => input !== null);
    if (given.length < pattern.inputs.length || given.includes(null) || (surplus && pattern.more !== true)) {
      return this.fail(value, pattern.types.join(' or '), `${node.label} has ${node.inputs.length} inputs`);
    }
    const unfit = pattern.unfit?.(node, this.rankOf) ?? null;
    if (unfit !== null) return this.fail(value, pattern.types.join(' or '), `${node.label} ${unfit}`);
    this.matched.push(node);
    const inputs = given as Value[];
    const orders = pattern.commutative === true ? [inputs, [...inputs].reverse()] : [inputs];
    const attemptInputs = () => orders.some(order => this.attemptAll(pattern.inputs, order, 0, then));
    const found =
      pattern.name === undefined ? attemptInputs() : this.bind(this.nodes, pattern.name, node, attemptInputs);
    if (!found) this.matched.pop();
    return found;
  }

  private attemptAll(
    patterns: readonly Pattern[],
    inputs: readonly Value[],
    next: number,
    then: () => boolean,
  ): boolean {
    if (next === patterns.length) return then();
    return this.attempt(patterns[next]!, inputs[next]!, () =>
      this.attemptAll(patterns, inputs, next + 1, then),
    );
  }

  /** Binds a free name for as long as what follows succeeds. */
  private bind<T>(bindings: Map<string, T>, name: string, bound: T, then: () => boolean): boolean {
    bindings.set(name, bound);
    if (then()) return true;
    bindings.delete(name);
    return false;
  }

  /** Notes a failure, keeping the one behind the most matched nodes; always false. */
  private fail(value: Value, expected: string, unfit: string | null = null): false {
    const depth = this.matched.length;
    const { furthest } = this;
    if (furthest === null || depth > furthest.matched.length) {
      this.furthest = { matched: [...this.matched], value, expected: new Set([expected]), unfit };
    } else if (depth === furthest.matched.length && furthest.value === value) {
      furthest.expected.add(expected);
      furthest.unfit ??= unfit;
    }
    return false;
  }

  /** Says in one phrase what the alternatives of a choice expected, if no attempt got past it. */
  private reword(expected: string | null, value: Value): void {
    const { furthest } = this;
    if (expected === null || furthest?.value !== value || furthest.matched.length !== this.matched.length)
      return;
    furthest.expected.clear();
    furthest.expected.add(expected);
  }

  private mismatch(): Mismatch {
    if (this.furthest === null) return { matched: [], node: null, reason: 'nothing to match' };
    const { matched, value, expected, unfit } = this.furthest;
    const node = value.producer ?? matched.at(-1) ?? null;
    if (unfit !== null) return { matched, node, reason: unfit };
    const found = value.producer?.label ?? (value.fed ? `graph input '${value.name}'` : `'${value.name}'`);
    return { matched, node, reason: `expected ${[...expected].join(', ')}; found ${found}` };
  }
}
