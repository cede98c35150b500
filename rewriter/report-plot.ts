import { type ScaleContinuousNumeric, scaleLinear, scaleLog } from 'd3-scale';
import {
  line,
  type SymbolType,
  symbol,
  symbolCircle,
  symbolDiamond,
  symbolSquare,
  symbolTimes,
  symbolTriangle,
} from 'd3-shape';
import { html, Markup } from './markup.js';
import { PLOT_STYLE } from './report-style.js';

/**
 * A plot of numbers against numbers: drawn as SVG while the page is written, so that pages need no script. Its
 * colors are those of the page's style, light and dark.
 */
export interface Plot {
  readonly title: string;
  /** What the plot shows, for those who do not see it. */
  readonly description: string;
  readonly x: Axis;
  readonly y: Axis;
  /** Told apart by color, symbol and, from the seventh on, by dashes. */
  readonly series: readonly Series[];
  /** Values worth a line across the plot: a budget, `as fast as the original`. */
  readonly guides?: readonly Guide[];
}

export interface Axis {
  readonly label: string;
  /** A logarithmic axis leaves out points that are not positive; a linear one starts at zero where all values are positive. */
  readonly scale: 'linear' | 'log';
  /** Values to mark; round ones when absent. */
  readonly ticks?: readonly number[];
  format(value: number): string;
}

export interface Series {
  readonly name: string;
  /** Points in order; `line` joins them. */
  readonly mark: 'line' | 'points';
  /** Which color and symbol it has, for series that appear in several plots; its place when absent. */
  readonly look?: number;
  readonly points: readonly Point[];
  /** Places on the x axis where there is no value, with the reason. */
  readonly missing?: readonly { readonly x: number; readonly reason: string }[];
}

export interface Point {
  readonly x: number;
  readonly y: number;
  /** Smallest and largest measured value behind y. */
  readonly range?: readonly [number, number];
  /** Shown while the pointer rests on the point; its coordinates when absent. */
  readonly label?: string;
}

export interface Guide {
  readonly axis: 'x' | 'y';
  readonly at: number;
  readonly label: string;
}

/** Plots side by side, one below the other on a phone. */
export function plots(...drawn: readonly (Markup | null)[]): Markup {
  return html`<div class="plots">${drawn}</div>`;
}

/** Size of a plot in its own units, about those of the screen, and the room around the axes. */
const [WIDTH, HEIGHT] = [340, 260];
const MARGIN = { top: 24, right: 14, bottom: 40, left: 56 } as const;

const SYMBOLS: readonly SymbolType[] = [symbolCircle, symbolSquare, symbolTriangle, symbolDiamond];
const COLORS = 6;
const SYMBOL_AREA = 42;
/** Room that the label of a tick needs on the x axis, per character. */
const CHARACTER_WIDTH = 7;
/** What the label of a guide takes above its line. */
const LABEL_HEIGHT = 20;

type Scale = ScaleContinuousNumeric<number, number>;

/** One plot with its title and legend. */
export function plot(drawn: Plot): Markup {
  const { title, description, series } = drawn;
  return html`<figure class="plot">
<figcaption>${title}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${description}">
${drawing(drawn)}
</svg>
${series.length > 1 ? legend(series) : null}
</figure>`;
}

/** Height of the title, and of one line of the legend, in a drawing that stands alone. */
const [TITLE, ENTRY] = [26, 16];

/** One plot with its title and legend as an SVG document. As a picture it has no use for the notes of its points. */
export function plotImage(drawn: Plot): string {
  const { title, description, series } = drawn;
  const height = TITLE + HEIGHT + ENTRY * series.length + 8;
  return `${
    html`<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 0 ${WIDTH + 8} ${height}" width="${1.5 * (WIDTH + 8)}" class="plot" role="img" aria-label="${description}">
<style>${PLOT_STYLE}
.plot { max-width: none; font: 12px system-ui, sans-serif; } .plot .sheet { fill: var(--card); } .plot .heading { fill: var(--ink); font-weight: 600; }</style>
<rect class="sheet" x="-4" width="${WIDTH + 8}" height="${height}"/>
<text class="heading" x="2" y="16">${title}</text>
<g transform="translate(0,${TITLE})">
${new Markup(drawing(drawn).text.replace(/><title>[^<]*<\/title><\/path>/g, '/>'))}
</g>
${series.map(
  ({ name, mark, look }, i) =>
    html`<g transform="translate(${MARGIN.left},${TITLE + HEIGHT + ENTRY * i})">${legendKey(mark, look ?? i)}<text x="34" y="10">${name}</text></g>
`,
)}</svg>`.text
  }\n`;
}

/** Axes, guides and marks. */
function drawing({ x, y, series, guides = [] }: Plot): Markup {
  const on = (axis: 'x' | 'y') => guides.filter(guide => guide.axis === axis).map(({ at }) => at);
  const xs = series.flatMap(({ points, missing = [] }) => [...points, ...missing].map(point => point.x));
  const ys = series.flatMap(({ points }) => points.flatMap(point => [point.y, ...(point.range ?? [])]));
  const across = scaleOf(x, [...xs, ...on('x')], [MARGIN.left, WIDTH - MARGIN.right]);
  const up = scaleOf(y, [...ys, ...on('y')], [HEIGHT - MARGIN.bottom, MARGIN.top]);
  const marks = series.flatMap(({ points }) => points.map(point => [across(point.x), up(point.y)] as const));
  return html`${yAxis(y, up)}${xAxis(x, across)}
${guides.map(guide => guideLine(guide, across, up, marks))}
${series.map((one, i) => seriesMarks(one, one.look ?? i, x, y, across, up))}`;
}

function scaleOf(axis: Axis, values: readonly number[], range: readonly [number, number]): Scale {
  const known = [...values, ...(axis.ticks ?? [])].filter(
    value => Number.isFinite(value) && (axis.scale === 'linear' || value > 0),
  );
  const [low, high] = known.length === 0 ? [1, 10] : [Math.min(...known), Math.max(...known)];
  if (axis.scale === 'linear') {
    const domain = low < 0 ? [low, Math.max(high, 0)] : [0, high || 1];
    return scaleLinear(domain, range).nice(5);
  }
  if (axis.ticks !== undefined) {
    const room = Math.max((high / low) ** 0.04, 1.02);
    return scaleLog([low / room, high * room], range);
  }
  const domain = [roundDown(low), roundUp(high)];
  return scaleLog(domain[0] === domain[1] ? [domain[0]! / 2, domain[1]! * 2] : domain, range);
}

/** Numbers that start logarithmic axes and mark them: 1, 2 and 5 times powers of ten. */
const ROUND = [1, 2, 5, 10] as const;

function roundDown(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ROUND.findLast(factor => factor * power <= value * (1 + 1e-9))!;
}

function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * ROUND.find(factor => factor * power >= value * (1 - 1e-9))!;
}

function ticksOf(axis: Axis, scale: Scale): readonly number[] {
  if (axis.ticks !== undefined) return axis.ticks;
  if (axis.scale === 'linear') return scale.ticks(5);
  const [low, high] = scale.domain() as [number, number];
  const wide = high / low > 2000;
  return scale.ticks().filter(tick => {
    const leading = Math.round(tick / 10 ** Math.floor(Math.log10(tick) + 1e-9));
    return leading === 1 || (!wide && (leading === 2 || leading === 5));
  });
}

function yAxis(axis: Axis, scale: Scale): Markup {
  const right = WIDTH - MARGIN.right;
  return html`<text class="axis-title" x="2" y="9">${axis.label}</text>
${ticksOf(axis, scale).map(tick => {
  const at = place(scale(tick));
  return html`<line class="grid" x1="${MARGIN.left}" x2="${right}" y1="${at}" y2="${at}"/><text class="tick" x="${MARGIN.left - 6}" y="${at}" dy=".32em" text-anchor="end">${tickText(axis, tick)}</text>`;
})}`;
}

function xAxis(axis: Axis, scale: Scale): Markup {
  const bottom = HEIGHT - MARGIN.bottom;
  let free = Number.NEGATIVE_INFINITY;
  const labels = ticksOf(axis, scale).map(tick => {
    const at = scale(tick);
    const text = tickText(axis, tick);
    const half = (text.length * CHARACTER_WIDTH) / 2;
    const shown = at - half > free;
    if (shown) free = at + half;
    return html`<line class="tick-mark" x1="${place(at)}" x2="${place(at)}" y1="${bottom}" y2="${bottom + 4}"/>${
      shown
        ? html`<text class="tick" x="${place(at)}" y="${bottom + 17}" text-anchor="middle">${text}</text>`
        : null
    }`;
  });
  return html`<line class="axis" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${bottom}" y2="${bottom}"/>
${labels}<text class="axis-title" x="${(MARGIN.left + WIDTH - MARGIN.right) / 2}" y="${HEIGHT - 4}" text-anchor="middle">${axis.label}</text>`;
}

/** Ticks are round: `1.00 s` says no more than `1 s`. */
function tickText(axis: Axis, tick: number): string {
  return axis
    .format(tick)
    .replace(/(\.\d*?)0+(?!\d)/, '$1')
    .replace(/\.(?!\d)/, '');
}

/** @param marks where points are: the label of a level line stands at the end where it covers fewer of them */
function guideLine(
  { axis, at, label }: Guide,
  across: Scale,
  up: Scale,
  marks: readonly (readonly [x: number, y: number])[],
): Markup {
  if (axis === 'y') {
    const y = up(at);
    const [left, right] = [MARGIN.left, WIDTH - MARGIN.right];
    const length = label.length * CHARACTER_WIDTH;
    const covered = (start: number) =>
      marks.filter(
        ([markX, markY]) =>
          markX >= start && markX <= start + length && markY <= y && markY >= y - LABEL_HEIGHT,
      ).length;
    const before = covered(left) < covered(right - length);
    return html`<line class="guide" x1="${left}" x2="${right}" y1="${place(y)}" y2="${place(y)}"/><text class="guide-label" x="${before ? left + 2 : right}" y="${place(y - 4)}" text-anchor="${before ? 'start' : 'end'}">${label}</text>`;
  }
  const x = across(at);
  const before = x > (MARGIN.left + WIDTH) / 2;
  return html`<line class="guide" x1="${place(x)}" x2="${place(x)}" y1="${MARGIN.top}" y2="${HEIGHT - MARGIN.bottom}"/><text class="guide-label" x="${place(x + (before ? -4 : 4))}" y="${MARGIN.top + 8}" text-anchor="${before ? 'end' : 'start'}">${label}</text>`;
}

function seriesMarks(series: Series, look: number, x: Axis, y: Axis, across: Scale, up: Scale): Markup {
  const points = series.points.filter(
    point => Number.isFinite(across(point.x)) && Number.isFinite(up(point.y)),
  );
  const path = line<Point>(
    point => across(point.x),
    point => up(point.y),
  ).digits(1)(points);
  const marks = points.map(({ range, ...point }) => {
    const label = point.label ?? `${x.label} ${x.format(point.x)}, ${y.label} ${y.format(point.y)}`;
    const [atX, atY] = [place(across(point.x)), place(up(point.y))];
    const whisker =
      range === undefined || !range.every(end => Number.isFinite(up(end)))
        ? null
        : html`<line class="whisker" x1="${atX}" x2="${atX}" y1="${place(up(range[0]))}" y2="${place(up(range[1]))}"/>`;
    return html`${whisker}<path class="point" d="${symbolPath(look)}" transform="translate(${atX},${atY})"><title>${series.name}: ${label}</title></path>`;
  });
  const missing = (series.missing ?? []).map(
    ({ x: at, reason }) =>
      html`<path class="missing" d="${symbol(symbolTimes, SYMBOL_AREA).digits(1)()!}" transform="translate(${place(across(at))},${MARGIN.top + 6 + 11 * look})"><title>${series.name}, ${x.label} ${x.format(at)}: ${reason}</title></path>`,
  );
  return html`<g class="${seriesClass(look)}">${
    series.mark === 'line' && path !== null ? html`<path class="line" d="${path}"/>` : null
  }${marks}${missing}</g>
`;
}

function legend(series: readonly Series[]): Markup {
  return html`<ul class="plot-legend">${series.map(
    ({ name, mark, look, missing = [] }, i) =>
      html`<li><svg class="key" viewBox="0 0 26 12" aria-hidden="true">${legendKey(mark, look ?? i)}</svg> ${name}${
        missing.length > 0 ? html` <span class="soft">(✕ failed)</span>` : null
      }</li>`,
  )}</ul>`;
}

function legendKey(mark: Series['mark'], look: number): Markup {
  return html`<g class="${seriesClass(look)}">${
    mark === 'line' ? html`<path class="line" d="M1 6H25"/>` : null
  }<path class="point" d="${symbolPath(look)}" transform="translate(13,6)"/></g>`;
}

function seriesClass(look: number): string {
  return `color-${look % COLORS}${look >= COLORS ? ' dashed' : ''}`;
}

function symbolPath(look: number): string {
  return symbol(SYMBOLS[look % SYMBOLS.length]!, SYMBOL_AREA).digits(1)()!;
}

/** Tenths are finer than any screen. */
function place(coordinate: number): string {
  return coordinate.toFixed(1);
}
