/** Counters of a server, as the text that Prometheus reads. */
export class Metrics {
  private readonly responses = new Map<number, number>();
  private runs = 0;
  private runSeconds = 0;

  /** An inference was answered with this HTTP status. */
  countResponse(status: number): void {
    this.responses.set(status, (this.responses.get(status) ?? 0) + 1);
  }

  countRun(milliseconds: number): void {
    this.runs++;
    this.runSeconds += milliseconds / 1000;
  }

  /** Everything counted so far, and how many requests wait or run now. */
  render(model: string, waiting: number): string {
    const label = `model=${JSON.stringify(model)}`;
    const responses = [...this.responses].sort(([a], [b]) => a - b);
    return [
      '# HELP onnx_rewrite_responses_total Answers to inference requests, by HTTP status.',
      '# TYPE onnx_rewrite_responses_total counter',
      ...responses.map(
        ([status, count]) => `onnx_rewrite_responses_total{${label},status="${status}"} ${count}`,
      ),
      '# HELP onnx_rewrite_run_seconds Time that the model ran, without waiting and transfer.',
      '# TYPE onnx_rewrite_run_seconds summary',
      `onnx_rewrite_run_seconds_sum{${label}} ${this.runSeconds}`,
      `onnx_rewrite_run_seconds_count{${label}} ${this.runs}`,
      '# HELP onnx_rewrite_waiting_requests Inference requests that wait or run.',
      '# TYPE onnx_rewrite_waiting_requests gauge',
      `onnx_rewrite_waiting_requests{${label}} ${waiting}`,
      '',
    ].join('\n');
  }
}
