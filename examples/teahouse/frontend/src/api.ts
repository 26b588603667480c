/** What the backend answers, and how it is asked. */

export interface Tea {
  id: number;
  name: string;
  kind: string;
  origin: string | null;
  price_cents: number;
  description: string;
}

export interface Order {
  id: number;
  tea: string;
  quantity: number;
  total_cents: number;
  at: string;
}

export interface Version {
  release: string;
  edition: string;
}

/** The backend said no, in words for the visitor. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function ask<T>(path: string, body?: unknown): Promise<T> {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(`/api${path}`, body === undefined ? {} : post);
  const answer: unknown = await response.json().catch(() => null);
  if (!response.ok) throw new ApiError(response.status, reason(answer, response.status));
  return answer as T;
}

function reason(answer: unknown, status: number): string {
  const detail = (answer as { detail?: unknown } | null)?.detail;
  return typeof detail === "string" ? detail : `the shop answered ${status}; try again`;
}

export const version = () => ask<Version>("/version");
export const teas = (q: string) => ask<Tea[]>(q ? `/teas?q=${encodeURIComponent(q)}` : "/teas");
export const orders = () => ask<Order[]>("/orders");
export const order = (tea_id: number, quantity: number) => ask<Order>("/orders", { tea_id, quantity });
export const login = (name: string, password: string) => ask<{ name: string }>("/login", { name, password });
export const logout = () => ask<unknown>("/logout", {});

/** The logged-in user's name, or null. */
export async function me(): Promise<string | null> {
  try {
    return (await ask<{ name: string }>("/me")).name;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) return null;
    throw error;
  }
}
