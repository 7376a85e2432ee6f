import { CriError, quote } from '#base/errors.ts';

/** What the capability `bandwidth` takes: bits per second, and bits for a burst. Source: CNI's CONVENTIONS.md. */
export interface Bandwidth {
  readonly ingressRate?: number;
  readonly ingressBurst?: number;
  readonly egressRate?: number;
  readonly egressBurst?: number;
}

const INGRESS = 'kubernetes.io/ingress-bandwidth';
const EGRESS = 'kubernetes.io/egress-bandwidth';

const KILO = 1e3;
const PETA = 1e15;

/** No limit in practice; the bandwidth plugin wants a burst with each rate, below 4 GiB. */
const BURST_BITS = 2 ** 31 - 1;

const FACTORS: Readonly<Record<string, number>> = {
  ...{ n: 1e-9, u: 1e-6, m: 1e-3, '': 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 },
  ...{ Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60 },
};

/**
 * The limits that a pod's annotations ask for, `undefined` when none.
 * @throws {CriError} `invalidArgument` for what is no quantity or outside of 1k to 1P: the bounds that Kubernetes has.
 */
export function readBandwidth(annotations: Readonly<Record<string, string>>): Bandwidth | undefined {
  const ingressRate = readRate(annotations, INGRESS);
  const egressRate = readRate(annotations, EGRESS);
  if (ingressRate === undefined && egressRate === undefined) return undefined;
  return {
    ...(ingressRate === undefined ? {} : { ingressRate, ingressBurst: BURST_BITS }),
    ...(egressRate === undefined ? {} : { egressRate, egressBurst: BURST_BITS }),
  };
}

function readRate(annotations: Readonly<Record<string, string>>, key: string): number | undefined {
  const text = annotations[key];
  if (text === undefined) return undefined;
  const rate = parseQuantity(text);
  if (rate === undefined) throw new CriError('invalidArgument', `annotation ${key}: ${quote(text)} is not a quantity`);
  if (rate < KILO || rate > PETA) throw new CriError('invalidArgument', `annotation ${key}: ${quote(text)} is not between 1k and 1P bits per second`);
  return rate;
}

/**
 * A Kubernetes quantity (`10M`, `1.5Gi`, `1e6`), rounded up to a whole number; `undefined` for other text.
 * Source: the grammar in k8s.io/apimachinery, pkg/api/resource/quantity.go.
 */
export function parseQuantity(text: string): number | undefined {
  const match = /^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i)?)$/.exec(text);
  if (match === null) return undefined;
  const [, digits = '', exponent = '', suffix = ''] = match;
  const value = Math.ceil(Number(`${digits}${exponent}`) * (FACTORS[suffix] ?? Number.NaN));
  return Number.isFinite(value) ? value : undefined;
}
