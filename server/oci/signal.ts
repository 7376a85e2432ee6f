/** The number of a CRI `Signal`; `undefined` for SIGNAL_RUNTIME_DEFAULT. */
export function criSignalNumber(_signal: number): number | undefined {
  throw new Error('not written yet');
}
/** The number of an image's StopSignal: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. `undefined` when empty or unknown. */
export function parseSignal(_text: string): number | undefined {
  throw new Error('not written yet');
}
/** The number to stop a container with: the request's, else the image's, else SIGTERM. */
export function stopSignalNumber(_requested: number, _image: string): number {
  throw new Error('not written yet');
}
/** `SIGTERM`, `SIGRTMIN+3`, … */
export function signalName(_number: number): string {
  throw new Error('not written yet');
}
/** The CRI `Signal` of a number, for ContainerStatus.stop_signal. */
export function criSignal(_number: number): number {
  throw new Error('not written yet');
}
