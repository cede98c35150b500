import assert from 'node:assert/strict';
import { type Axis, type Plot, plot, plotImage } from '../../rewriter/report-plot.js';

const axis = (label: string, scale: Axis['scale'], ticks?: readonly number[]): Axis => ({
  label,
  scale,
  format: String,
  ...(ticks === undefined ? {} : { ticks }),
});

function draw(overrides: Partial<Plot> = {}): string {
  return plot({
    title: 'Time',
    description: 'time by length',
    x: axis('tokens', 'log', [1, 10, 100]),
    y: axis('seconds', 'log'),
    series: [
      {
        name: 'a',
        mark: 'line',
        points: [
          { x: 1, y: 0.3, range: [0.2, 0.4] },
          { x: 10, y: 30 },
          { x: 100, y: 3000 },
        ],
      },
    ],
    ...overrides,
  }).text;
}

/** Where the points of a plot are, in its own units. */
function places(drawing: string): [number, number][] {
  return [...drawing.matchAll(/class="point"[^>]*transform="translate\(([\d.]+),([\d.]+)\)"><title/g)].map(
    match => [Number(match[1]), Number(match[2])],
  );
}

const ticks = (drawing: string) =>
  [...drawing.matchAll(/class="tick"[^>]*>([^<]*)</g)].map(match => match[1]!);

describe('plots', () => {
  it('puts equal ratios at equal distances on logarithmic axes', () => {
    const [a, b, c] = places(draw()) as [[number, number], [number, number], [number, number]];
    assert.ok(Math.abs(b[0] - a[0] - (c[0] - b[0])) < 0.2);
    assert.ok(Math.abs(a[1] - b[1] - (b[1] - c[1])) < 0.2);
    assert.ok(b[0] > a[0] && b[1] < a[1]);
  });

  it('starts linear axes of positive values at zero, in proportion', () => {
    const y = axis('seconds', 'linear');
    const points = [2, 4, 8].map(value => ({ x: value, y: value }));
    const drawing = draw({ x: axis('n', 'linear'), y, series: [{ name: 'a', mark: 'line', points }] });
    const [a, b, c] = places(drawing) as [[number, number], [number, number], [number, number]];
    assert.ok(Math.abs((b[1] - c[1]) / (a[1] - b[1]) - 2) < 0.02);
    assert.deepEqual(ticks(drawing).slice(0, 5), ['0', '2', '4', '6', '8']);
  });

  it('marks 1, 2 and 5 times powers of ten, powers alone where there are many', () => {
    const points = [3, 30].map(y => ({ x: 1, y }));
    const few = draw({ series: [{ name: 'a', mark: 'points', points }] });
    assert.deepEqual(ticks(few).slice(0, -3), ['2', '5', '10', '20', '50']);
    assert.deepEqual(ticks(draw()).slice(0, -3), ['1', '10', '100', '1000']);
  });

  it('draws one value, no value, and values that a logarithm cannot take', () => {
    for (const ys of [[5], [], [0, 5], [Number.NaN]]) {
      const points = ys.map(y => ({ x: 10, y }));
      assert.ok(!/NaN|Infinity/.test(draw({ series: [{ name: 'a', mark: 'line', points }] })), String(ys));
    }
  });

  it('escapes names, and tells series apart by color, symbol and dashes', () => {
    const series = Array.from({ length: 8 }, (_, i) => ({
      name: `<b>${i}`,
      mark: 'line' as const,
      points: [{ x: 1, y: i + 1 }],
    }));
    const drawing = draw({ series });
    assert.ok(!drawing.includes('<b>'));
    const looks = [...drawing.matchAll(/<g class="([^"]*)">.*?class="point" d="([^"]*)"/gs)].map(match =>
      match.slice(1).join(),
    );
    assert.equal(new Set(looks).size, 8);
  });

  it('writes the label of a level line where it covers no point', () => {
    const at = (...xs: readonly number[]) =>
      draw({
        x: axis('speed', 'linear'),
        y: axis('cost', 'linear'),
        series: [{ name: 'a', mark: 'points', points: [{ x: 0, y: 0 }, ...xs.map(x => ({ x, y: 1.02 }))] }],
        guides: [{ axis: 'y', at: 1, label: 'budget' }],
      });
    assert.match(at(2, 9.9), /text-anchor="start">budget</);
    assert.match(at(0.1, 5, 10), /text-anchor="end">budget</);
  });

  it('shows where a value is missing, and why', () => {
    const missing = [{ x: 100, reason: 'out of memory' }];
    const drawing = draw({ series: [{ name: 'a', mark: 'line', points: [{ x: 1, y: 1 }], missing }] });
    assert.match(drawing, /<title>a, tokens 100: out of memory<\/title>/);
  });

  it('stands alone as an SVG document with its style, title and legend', () => {
    const points = [{ x: 1, y: 2 }];
    const image = plotImage({
      title: 'Loss < 1',
      description: 'loss by step',
      x: axis('step', 'linear'),
      y: axis('loss', 'linear'),
      series: ['first', 'second'].map(name => ({ name, mark: 'line', points })),
    });
    assert.match(image, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" .*<\/svg>\n$/s);
    assert.match(image, /Loss &lt; 1/);
    assert.deepEqual(
      [...image.matchAll(/<text x="34" y="10">(\w+)</g)].map(match => match[1]),
      ['first', 'second'],
    );
    const colors = new Set([...image.matchAll(/var\(--([\w-]+)\)/g)].map(match => match[1]!));
    colors.delete('series');
    for (const color of colors) assert.ok(image.includes(`--${color}:`), color);
  });
});
