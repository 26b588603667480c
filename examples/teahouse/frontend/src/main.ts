/** The shop's one page: who you are, what there is, what you ordered. */

import * as api from "./api";
import { byId, element, price } from "./dom";
import * as live from "./live";
import "./style.css";

let user: string | null = null;
let edition: string | undefined;
let searches = 0;

function say(text: string): void {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = text === "";
}

/** Runs what a visitor asked for; what goes wrong is told, not lost. */
async function attempt(action: () => Promise<void>): Promise<void> {
  try {
    say("");
    await action();
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    if (error instanceof api.ApiError && error.status === 401 && user !== null) await become(null);
  }
}

async function showVersion(): Promise<void> {
  const shop = await api.version();
  edition = shop.edition;
  byId("edition").textContent = `Edition “${shop.edition}”, release ${shop.release.slice(0, 12)}`;
}

function showCounter(counter: live.Counter | null): void {
  const line = byId("counter");
  line.hidden = counter === null;
  if (counter === null) return;
  const guests = counter.guests === 1 ? "You have the shop to yourself" : `${counter.guests} guests`;
  const packs = counter.packs_today === null ? "" : ` · ${counter.packs_today} packs sold today`;
  line.replaceChildren(guests + packs);
  if (edition !== undefined && counter.edition !== edition) line.append(" · ", reload(counter.edition));
}

/** The page is of an older release than the shop by now. */
function reload(newer: string): HTMLElement {
  const button = element("button", { type: "button" }, `See “${newer}”`);
  button.addEventListener("click", () => location.reload());
  return button;
}

function showTicker(order: live.Ordered): void {
  const line = byId("ticker");
  line.hidden = false;
  line.textContent = `Just ordered: ${order.quantity} × ${order.tea}`;
}

async function become(name: string | null): Promise<void> {
  user = name;
  byId("account").replaceChildren(name === null ? loginForm() : greeting(name));
  byId("orders-section").hidden = name === null;
  await Promise.all([showTeas(), name === null ? undefined : showOrders()]);
}

function loginForm(): HTMLFormElement {
  const name = element("input", { name: "name", placeholder: "guest", ariaLabel: "Name", required: true, autocomplete: "username" });
  const password = element("input", {
    name: "password",
    type: "password",
    placeholder: "guest",
    ariaLabel: "Password",
    required: true,
    autocomplete: "current-password",
  });
  const form = element("form", { id: "login" }, name, password, element("button", {}, "Log in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(async () => become((await api.login(name.value, password.value)).name));
  });
  return form;
}

function greeting(name: string): HTMLElement {
  const button = element("button", { type: "button" }, "Log out");
  button.addEventListener("click", () => {
    void attempt(async () => {
      await api.logout();
      await become(null);
    });
  });
  return element("p", {}, `Welcome, ${name}. `, button);
}

async function showTeas(): Promise<void> {
  const search = ++searches;
  const found = await api.teas(byId<HTMLInputElement>("q").value.trim());
  // A slow answer must not replace the one to what was typed since.
  if (search !== searches) return;
  byId("teas").replaceChildren(...(found.length ? found.map(teaItem) : [element("li", {}, "No tea like that.")]));
}

function teaItem(tea: api.Tea): HTMLElement {
  const title = element("h3", {}, tea.name);
  const facts = element("p", { className: "facts" }, [tea.kind, tea.origin, price(tea.price_cents)].filter(Boolean).join(" · "));
  const item = element("li", {}, title, facts, element("p", {}, tea.description));
  if (user !== null) item.append(orderForm(tea));
  return item;
}

function orderForm(tea: api.Tea): HTMLFormElement {
  const quantity = element("input", { type: "number", min: "1", max: "100", value: "1", ariaLabel: `Packs of ${tea.name}` });
  const form = element("form", { className: "order" }, quantity, element("button", {}, "Order"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void attempt(async () => {
      const placed = await api.order(tea.id, quantity.valueAsNumber);
      await showOrders();
      say(`Ordered: ${placed.quantity} × ${tea.name} for ${price(placed.total_cents)}.`);
    });
  });
  return form;
}

async function showOrders(): Promise<void> {
  const placed = await api.orders();
  const items = placed.map((order) =>
    element("li", { value: order.id }, `${order.quantity} × ${order.tea}, ${price(order.total_cents)}, ${new Date(order.at).toLocaleString("en")}`),
  );
  byId("orders").replaceChildren(...items);
}

let typing: number | undefined;
byId("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => void attempt(showTeas), 150);
});
byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  void attempt(showTeas);
});

live.watchCounter(showCounter);
live.watchOrders(showTicker);
void attempt(async () => {
  await Promise.all([showVersion(), api.me().then(become)]);
});
