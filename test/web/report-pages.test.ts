import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { AxeResults } from 'axe-core';
import type { Browser } from 'playwright-core';
import { renderBenchPage } from '../../cli/bench-page.js';
import { renderHtml } from '../../rewriter/report-html.js';
import { exampleBench } from '../cli/example-bench.js';
import { exampleReport, measured } from '../rewriter/example-report.js';
import { temporaryFolder } from '../temporary-folder.js';
import { NO_BROWSER, openBrowser } from './browser.js';

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

const PAGES = {
  'of a benchmark': renderBenchPage(exampleBench()),
  'of a rewrite': renderHtml(exampleReport(measured(0.00123))),
  'of a failed rewrite': renderHtml(exampleReport(measured(0.5))),
};

describe('report pages in Chromium', () => {
  const folder = temporaryFolder();
  let browser: Browser;

  before(async function () {
    if (NO_BROWSER !== null) this.skip();
    browser = await openBrowser({ webgpu: false });
  });

  after(() => browser?.close());

  for (const [name, text] of Object.entries(PAGES)) {
    for (const [device, width, colorScheme] of [
      ['a desktop, light', 1200, 'light'],
      ['a desktop, dark', 1200, 'dark'],
      ['a phone, light', 360, 'light'],
    ] as const) {
      it(`the page ${name} is accessible, offline and fits on ${device}`, async () => {
        const file = join(folder(), 'page.html');
        writeFileSync(file, text);
        const context = await browser.newContext({
          viewport: { width, height: 800 },
          colorScheme,
          offline: true,
        });
        try {
          const page = await context.newPage();
          const requests: string[] = [];
          page.on('request', request => requests.push(request.url()));
          await page.goto(pathToFileURL(file).href);
          assert.deepEqual(requests, [pathToFileURL(file).href]);
          assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
          await page.evaluate(AXE);
          const results = (await page.evaluate('axe.run()')) as AxeResults;
          assert.deepEqual(
            results.violations.map(({ id, nodes }) => [id, nodes[0]?.html]),
            [],
          );
          assert.ok(results.passes.some(({ id }) => id === 'color-contrast'));
        } finally {
          await context.close();
        }
      });
    }
  }
});
