import { Markup } from './markup.js';

/** Colors of text, marks and paper, light and dark. */
const COLORS = `:root {
  --paper: #fbfaf8; --card: #fff; --ink: #1d1f24; --soft: #5b606b; --line: #e2dfd8;
  --accent: #0b5cad; --accent-soft: #dfeaf6; --second: #b4740e; --good: #17703c; --good-soft: #e0f1e6;
  --bad: #b3261e; --bad-soft: #fae3e1; --neutral-soft: #ecebe7;
  --series-0: #0b5cad; --series-1: #b4580e; --series-2: #17703c; --series-3: #9b2f86; --series-4: #5b606b; --series-5: #8a6d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1c1f25; --ink: #e8e9ec; --soft: #a2a8b4; --line: #31353e;
    --accent: #7db7f2; --accent-soft: #1d344c; --second: #e3a548; --good: #7ed3a0; --good-soft: #1a3826;
    --bad: #ff9c94; --bad-soft: #4a211e; --neutral-soft: #2a2e36;
    --series-0: #7db7f2; --series-1: #f0a35e; --series-2: #7ed3a0; --series-3: #e39ad3; --series-4: #a2a8b4; --series-5: #d9c25a;
  }
}`;

/** What plots are drawn with. */
const MARKS = `.plot text { fill: var(--soft); }
.plot .axis-title { fill: var(--ink); }
.grid { stroke: var(--line); }
.axis, .tick-mark { stroke: var(--soft); }
.guide { stroke: var(--soft); stroke-dasharray: 2 3; }
.plot .guide-label { paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.color-0 { --series: var(--series-0); } .color-1 { --series: var(--series-1); } .color-2 { --series: var(--series-2); }
.color-3 { --series: var(--series-3); } .color-4 { --series: var(--series-4); } .color-5 { --series: var(--series-5); }
.line { fill: none; stroke: var(--series); stroke-width: 2; stroke-linejoin: round; }
.dashed .line { stroke-dasharray: 6 4; }
.point { fill: var(--series); stroke: var(--card); stroke-width: 1; }
.whisker { stroke: var(--series); stroke-width: 1.5; opacity: .55; }
.missing { fill: none; stroke: var(--series); stroke-width: 2; }`;

/** Style of a plot that stands alone. */
export const PLOT_STYLE = new Markup(`
${COLORS}
${MARKS}`);

/**
 * Style of all pages of reports. Text has a contrast of at least 4.5 to 1 in both schemes, marks of plots of 3 to 1.
 */
export const STYLE = new Markup(`
${COLORS}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2.5rem clamp(1rem, 4vw, 2.5rem); background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.2rem); line-height: 1.2; margin: .1rem 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
code, pre { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { background: var(--neutral-soft); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
small { display: block; color: var(--soft); font-size: .82rem; line-height: 1.4; font-weight: 400; }
.kicker { color: var(--soft); margin: 0; font-size: .9rem; }
.verdict { display: inline-block; margin: 0 0 1.4rem; padding: .35rem .9rem; border-radius: 2rem; font-weight: 600; }
.verdict.good { background: var(--good-soft); color: var(--good); }
.verdict.bad { background: var(--bad-soft); color: var(--bad); }
.verdict.neutral { background: var(--neutral-soft); color: var(--ink); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .8rem; margin: 0; }
.facts > div { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: .9rem 1.1rem; }
.facts dt { color: var(--soft); font-size: .88rem; }
.facts dd { margin: .1rem 0 0; }
.facts strong { font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.notes { margin: 1rem 0; padding: .7rem 1rem .7rem 2rem; background: var(--accent-soft); border-radius: .5rem; }
section, footer { background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1.2rem clamp(.9rem, 2.5vw, 1.5rem); margin-top: 1.2rem; }
.scroll { overflow-x: auto; }
.scroll + .scroll { margin-top: 1.2rem; }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .93rem; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: .5rem .9rem .5rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-size: .82rem; font-weight: 600; white-space: nowrap; }
tbody th { font-weight: 500; min-width: 8rem; }
td small { min-width: 9rem; }
.chip { display: inline-block; border-radius: 1rem; padding: .05rem .6rem; font-size: .82rem; font-weight: 600; white-space: nowrap; }
.chip.replaced { background: var(--accent-soft); color: var(--accent); }
.chip.kept { background: var(--neutral-soft); color: var(--ink); }
.chip.ok { background: var(--good-soft); color: var(--good); }
.chip.over { background: var(--bad-soft); color: var(--bad); }
.bars { position: relative; width: clamp(7rem, 22vw, 16rem); padding: .25rem 0; background: var(--neutral-soft); border-radius: .25rem; }
.bar { display: block; height: .4rem; border-radius: 0 .2rem .2rem 0; }
.bar + .bar { margin-top: .15rem; }
.bar.isolated, .swatch.isolated { background: var(--accent); }
.bar.propagated, .swatch.propagated { background: var(--second); }
.limit { position: absolute; top: -.1rem; bottom: -.1rem; width: 2px; background: var(--bad); }
.shares { display: flex; gap: 1px; width: clamp(7rem, 18vw, 14rem); height: 1rem; margin-top: .2rem; background: var(--neutral-soft); border-radius: .2rem; overflow: hidden; }
.step-0, .step-1, .step-2, .step-3, .step-4, .step-5 { background: var(--accent); }
.step-1 { opacity: .8; } .step-2 { opacity: .62; } .step-3 { opacity: .45; } .step-4 { opacity: .3; } .step-5 { opacity: .17; }
.legend-entry { white-space: nowrap; margin-right: .6rem; }
.legend { margin: 1rem 0 0; color: var(--soft); font-size: .85rem; }
.swatch { display: inline-block; width: .8rem; height: .5rem; border-radius: .15rem; margin-left: .4rem; }
.swatch.budget { width: 2px; height: .8rem; background: var(--bad); vertical-align: -.1rem; }
.plot-legend .soft { color: var(--soft); white-space: nowrap; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 18.5rem), 1fr)); gap: 1.2rem 1.6rem; margin: .6rem 0 1.4rem; }
.plot { margin: 0; max-width: 34rem; }
.plot figcaption { font-weight: 600; margin-bottom: .5rem; }
.plot > svg { display: block; width: 100%; height: auto; overflow: visible; font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
${MARKS}
.plot-legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .4rem 0 0; padding: 0; font-size: .85rem; overflow-wrap: anywhere; }
.plot-legend .key { width: 26px; height: 12px; vertical-align: -.05em; }
details { border-top: 1px solid var(--line); padding: .6rem 0; }
details:first-of-type { border-top: 0; }
summary { cursor: pointer; font-weight: 600; }
.attributes { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .3rem 1.2rem; margin: .4rem 0 0; }
.attributes > div { display: flex; justify-content: space-between; gap: .6rem; border-bottom: 1px solid var(--line); }
.attributes dt { color: var(--soft); font-size: .88rem; }
.attributes dd { margin: 0; font-variant-numeric: tabular-nums; font-size: .88rem; }
footer { font-size: .9rem; color: var(--soft); }
footer h2 { color: var(--ink); }
footer pre { color: var(--ink); }
@media (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, tr, tbody th, td { display: block; }
  tr { border-top: 1px solid var(--line); padding: .6rem 0; }
  th, td { border: 0; padding: .12rem 0; }
  tbody th { font-weight: 600; }
  td { display: grid; grid-template-columns: 7.5rem 1fr; gap: .6rem; }
  td::before { content: attr(data-title); color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
  .bars, .shares { width: 100%; }
}
@media print {
  * { print-color-adjust: exact; }
  body { max-width: none; padding: 0; }
  footer, .facts > div, .plot, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  thead th { white-space: normal; }
  tbody th { min-width: 6rem; }
  .bars, .shares { width: 7rem; }
}
`);
