import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { AxeResults } from 'axe-core';
import type { Browser, Page } from 'playwright-core';
import { build } from 'vite';
import { identityModel } from '../../custom-ops/runtime/web/identity-model.js';
import { tinyTransformer } from '../cli/tiny-transformer.js';
import { NO_BROWSER, openBrowser, showErrors, TestServer } from './browser.js';

const DEMO = fileURLToPath(new URL('../../../cli/web-demo', import.meta.url));
const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const DESKTOP = { width: 1280, height: 900 };
/** Of single steps: far more than they take on an idle machine. */
const TIMEOUT_MS = 100_000;
const MODEL = tinyTransformer({ layers: 1 }).model;
const PHONE = { width: 360, height: 740 };

/** On wasm, since it is quick here: what the GPU does is tested in session.test.ts. */
describe('the demo page', () => {
  let folder = '';
  let server: TestServer;
  let browser: Browser;
  let page: Page;

  before(async function () {
    if (NO_BROWSER) {
      console.log(`      ${NO_BROWSER}`);
      return this.skip();
    }
    folder = await mkdtemp(join(tmpdir(), 'onnx-rewrite-demo-'));
    await build({
      root: DEMO,
      configFile: join(DEMO, 'vite.config.ts'),
      logLevel: 'error',
      build: { outDir: folder },
    });
    // In a folder of the server, not at its root.
    const start = await readFile(join(folder, 'index.html'));
    server = await TestServer.start({ '/some/folder/': `${folder}/` }, { '/some/folder/': start });
    browser = await openBrowser({ webgpu: false });
  });

  beforeEach(async () => {
    page = await browser.newPage({ viewport: DESKTOP });
    page.setDefaultTimeout(TIMEOUT_MS);
    showErrors(page);
    await page.goto(`${server.address}/some/folder/`);
    await page.waitForSelector('#device.bad');
  });

  afterEach(() => page.close());

  after(async () => {
    await browser?.close();
    await server?.stop();
    if (folder) await rm(folder, { recursive: true });
  });

  /** Chooses a model of random weights, as a file. */
  async function chooseFile(name: string, bytes: Uint8Array): Promise<void> {
    await page.selectOption('#model', 'file');
    await page.setInputFiles('#file', {
      name,
      mimeType: 'application/octet-stream',
      buffer: Buffer.from(bytes),
    });
    await page.selectOption('#length', '1024');
  }

  async function violations(): Promise<readonly string[]> {
    await page.addScriptTag({ path: AXE });
    const found = await page.evaluate(async () => {
      const { axe } = globalThis as unknown as { axe: { run(): Promise<AxeResults> } };
      return (await axe.run()).violations;
    });
    return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`);
  }

  it('rewrites a file, runs both models, and shows what that costs and gains', async () => {
    await chooseFile('tiny.onnx', MODEL);
    assert.deepEqual(await violations(), []);
    await page.focus('#run');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#results section');
    const results = (await page.textContent('#results'))!;
    assert.match(results, /Both models ran on wasm: there is no WebGPU adapter/);
    assert.match(results, /1 of 1 attention sites replaced/);
    const error = Number(/Error of logits([\d.e-]+)relative/.exec(results)?.[1]);
    assert(error > 0 && error < 0.05, `error ${error}`);
    const shares = await page.$$eval('tr:has(td[data-title="below 16"])', rows =>
      rows.map(row =>
        [...row.querySelectorAll('td')].slice(0, -1).map(cell => parseFloat(cell.textContent!)),
      ),
    );
    assert.equal(shares.length, 1);
    for (const site of shares) assert(Math.abs(site.reduce((a, b) => a + b) - 100) < 0.5, site.join());

    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      assert.deepEqual(await violations(), []);
    }
    await page.setViewportSize(PHONE);
    assert.deepEqual(await violations(), []);
    const { wide } = await page.evaluate(() => ({ wide: document.documentElement.scrollWidth }));
    assert(wide <= PHONE.width, `${wide} pixels wide`);

    const download = page.waitForEvent('download');
    await page.click('#download');
    const saved = await (await download).path();
    assert.equal((await download).suggestedFilename(), 'tiny-rewritten.onnx');
    assert((await readFile(saved)).includes('MultipoleAttention'));
  });

  it('can be canceled, and used again', async () => {
    await chooseFile('tiny.onnx', MODEL);
    await page.click('#run');
    await page.waitForFunction(() => document.querySelector('progress')!.value >= 0.1);
    assert(await page.isDisabled('#run'));
    await page.click('#cancel');
    assert(await page.isHidden('#progress'));
    assert(await page.isEnabled('#run'));
    assert.equal(await page.textContent('#results'), '');
    await page.click('#run');
    await page.waitForFunction(() => document.querySelector('progress')!.value >= 0.1);
  });

  it('says what is wrong with a file, and what to do', async () => {
    const outside = tinyTransformer({ layers: 1, externalData: 'weights.bin' }).model;
    for (const [name, bytes, message] of [
      ['broken.onnx', new Uint8Array(100).fill(7), /broken\.onnx: .*\. \w/],
      ['cut.onnx', MODEL.subarray(0, MODEL.length / 2), /cut\.onnx: .*truncated.*\. Export/],
      ['diary.onnx', Buffer.from('not a model\n'.repeat(20)), /a text file, not an ONNX model\. Give/],
      ['outside.onnx', outside, /weights are in other files \(weights\.bin\)\. This page/],
      ['identity.onnx', identityModel(), /identity\.onnx: no attention was found\. There/],
    ] as const) {
      await chooseFile(name, bytes);
      await page.click('#run');
      await page.waitForFunction(
        file => document.querySelector('#failure:not([hidden])')?.textContent?.includes(file),
        name,
      );
      assert.match((await page.textContent('#failure'))!, message);
      assert(await page.isEnabled('#run'));
    }
  });
});
