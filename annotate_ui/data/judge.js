/* The judging loop: pictures stacked and loaded ahead, keys, and an outbox that loses nothing.
 *
 * Text that people wrote (names, comments) only ever enters the page as text, never as HTML.
 * Every decision gets its id here and is kept in this browser until the server has said that it has
 * it; the server takes a repeated one for what it is.
 */
(() => {
  "use strict";
  if (window.FitReview) return;

  const AHEAD_RETRY_MS = 1500;
  const VIEWS = ["front", "side", "top", "face", "left_hand", "right_hand"];
  const VIEW_NAMES = {
    front: "Photo and fit", side: "From the side", top: "From above",
    face: "Face", left_hand: "Left hand", right_hand: "Right hand",
  };
  const PART_NAMES = { body: "Body", left_hand: "Left hand", right_hand: "Right hand", face: "Face" };
  const PART_KEYS = { b: "body", l: "left_hand", k: "right_hand", f: "face" };
  const VERDICT_NAMES = { accept: "Accepted", reject: "Rejected", unsure: "Unsure", withdrawn: "Taken back" };
  const HELP = [
    ["A  or  Enter", "accept, with the parts that are switched on"],
    ["R", "reject: choose reasons, then Enter"],
    ["1 – 9", "reject for this reason (Enter sends)"],
    ["S", "unsure"],
    ["U", "undo the last decision"],
    ["B  L  K  F", "body, left hand, right hand, face is good or not"],
    ["Space (hold)", "the bare photo"],
    ["− / +", "more or less of the fit"],
    ["V", "next view, large"],
    ["P", "keypoints and their errors"],
    ["M", "turn the mesh in 3D"],
    ["C", "write a comment (Esc leaves it)"],
    ["← / →", "look through your decisions"],
    ["H", "history"],
    ["G", "guidelines"],
    ["?", "this list"],
  ];

  const pathBase = () => location.pathname.replace(/\/judge(\/.*)?$/, "");
  const newId = () =>
    Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
  const words = (name) => name.replaceAll("_", " ");

  /** Make an element: el("div.a.b", {title: "x", onclick: f}, child, "text", ...). */
  function el(kind, props, ...children) {
    const [tag, ...classes] = kind.split(".");
    const node = document.createElement(tag);
    if (classes.length) node.className = classes.join(" ");
    for (const [name, value] of Object.entries(props || {})) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
    return node;
  }
  const svg = (tag, attrs) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [k, v] of Object.entries(attrs || {})) node.setAttribute(k, v);
    return node;
  };
  const key = (text) => el("kbd", {}, text);

  class Failure extends Error {
    constructor(status, message) { super(message); this.status = status; }
  }

  const REVIEW = {
    me: null,
    items: [],          // the item that is shown is items[0], unless something is looked back at
    outbox: [],
    stacks: new Map(),  // lease -> its pictures, loaded
    undoable: [],       // decision ids of this visit, the newest last
    drafts: new Map(),  // lease -> what was said before an undo
    looking: null,      // {row, item}: a decision of one's own that is looked at again
    tutorial: null,
    mode: new URLSearchParams(location.search).get("mode") === "adjudicate" ? "adjudicate" : "review",
    view: "front",
    opacity: 1,
    keypoints: false,
    rejecting: false,
    sending: false,
    problem: "",        // why the last try to send failed
    timings: [],        // for those who measure: decision to next photo, in ms
  };
  window.FitReview = REVIEW;

  // --- the server -------------------------------------------------------------------------------

  async function ask(path, body) {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
    };
    let response;
    try {
      response = await fetch(`${REVIEW.base}/api/${path}`, options);
    } catch {
      throw new Failure(0, "The server does not answer.");
    }
    if (response.status === 401) {
      location.assign(`${REVIEW.base}/login`);
      throw new Failure(401, "Log in again.");
    }
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) throw new Failure(response.status, answer.error || `Error ${response.status}`);
    return answer;
  }

  const outboxKey = () => `fit-review-outbox:${REVIEW.base}:${REVIEW.me.name}`;
  // One entry a decision: two tabs of one person must not write over each other's.
  function keep(decision) {
    try { localStorage.setItem(`${outboxKey()}:${decision.decision_id}`, JSON.stringify(decision)); } catch { /* private window */ }
  }
  function drop(decision) {
    try { localStorage.removeItem(`${outboxKey()}:${decision.decision_id}`); } catch { /* private window */ }
  }
  function readOutbox() {
    const found = [];
    try {
      for (const name of Object.keys(localStorage)) {
        if (name.startsWith(`${outboxKey()}:`)) found.push(JSON.parse(localStorage.getItem(name)));
      }
    } catch { /* private window */ }
    return found.filter((d) => d && d.decision_id).sort((a, b) => (a.at || 0) - (b.at || 0));
  }

  /** Send what waits, in order; retry what the network loses; drop only what the server refuses. */
  async function flush() {
    if (REVIEW.sending) return;
    REVIEW.sending = true;
    let wait = 500;
    while (REVIEW.outbox.length) {
      const next = REVIEW.outbox[0];
      showSaving();
      try {
        const { at, ...said } = next;
        const answer = await ask("decide", said);
        REVIEW.problem = "";
        REVIEW.outbox.shift();
        drop(next);
        merge(answer.items);
        wait = 500;
      } catch (failure) {
        if (failure.status === 401) break;
        if (failure.status >= 400 && failure.status < 500 && failure.status !== 429) {
          REVIEW.outbox.shift();
          drop(next);
          toast(`Not taken: ${failure.message}`, "bad");
          await refill();
        } else {
          REVIEW.problem = failure.message;
          showSaving();
          await new Promise((done) => setTimeout(done, wait));
          wait = Math.min(2 * wait, 10000);
        }
      }
    }
    REVIEW.sending = false;
    showSaving();
  }

  function merge(items) {
    const known = new Set([...REVIEW.items.map((i) => i.lease), ...REVIEW.outbox.map((d) => d.lease)]);
    const wasEmpty = !REVIEW.items.length;
    for (const item of items) if (!known.has(item.lease)) REVIEW.items.push(item);
    loadAhead();
    if (wasEmpty && !REVIEW.looking && !REVIEW.tutorial) show();
  }

  async function refill() {
    try { merge((await ask("next", { mode: REVIEW.mode })).items); } catch (failure) { toast(failure.message, "bad"); }
    if (!REVIEW.items.length) show();
  }

  // --- pictures ---------------------------------------------------------------------------------

  const fileUrl = (item, name) => `${REVIEW.base}/api/file/${item.lease}/${name}`;

  /** Why there will be no picture at an address; empty if there may be one later. */
  async function whyNone(url) {
    try {
      const response = await fetch(url);
      if (response.status !== 410 && response.status !== 404) return "";
      return (await response.json().catch(() => ({}))).error || "there is none";
    } catch { return ""; }
  }

  /** Load one picture; one that is still being drawn is asked for again. Gives why there is none. */
  function loadPicture(img, url, tries = 0) {
    return new Promise((done) => {
      img.onload = () => img.decode().then(() => done(""), () => done(""));
      img.onerror = async () => {
        const why = await whyNone(url);
        if (why || tries >= 20 || !img.isConnected && tries > 3) {
          img.classList.add("missing");
          done(why || "it is not drawn yet");
          return;
        }
        setTimeout(() => loadPicture(img, `${url}${url.includes("?") ? "&" : "?"}try=${tries + 1}`, tries + 1).then(done), AHEAD_RETRY_MS);
      };
      img.src = url;
    });
  }

  /** All pictures of an item, in the page and decoded before it is shown. */
  function stackOf(item) {
    let stack = REVIEW.stacks.get(item.lease);
    if (stack) return stack;
    stack = { node: el("div.rv-stack"), thumbs: new Map(), points: null, ready: false };
    const has = new Set(item.files);
    const loads = [];
    for (const view of VIEWS) {
      if (!has.has(`${view}.jpg`)) continue;
      const layer = el("div.rv-layer", {});
      layer.dataset.view = view;
      const bare = view === "front" ? "photo.jpg" : `${view}_photo.jpg`;
      if (has.has(bare)) {
        const under = el("img.rv-bare", { alt: "", draggable: false });
        layer.append(under);
        loads.push(loadPicture(under, fileUrl(item, bare)));
        layer.classList.add("two");
      }
      const over = el("img.rv-fit", { alt: VIEW_NAMES[view], draggable: false });
      layer.append(over);
      loads.push(loadPicture(over, fileUrl(item, `${view}.jpg`)));
      if (view === "front") {
        stack.svg = svg("svg", { class: "rv-points", "aria-hidden": "true" });
        layer.append(stack.svg);
      }
      stack.node.append(layer);
      const thumb = el("img", { alt: VIEW_NAMES[view], draggable: false });
      stack.thumbs.set(view, thumb);
      loadPicture(thumb, fileUrl(item, `${view}.jpg`));
    }
    // The photo and the fit over it: with these somebody can judge; the zooms may come later.
    stack.loaded = Promise.all(loads.slice(0, 2)).then((problems) => {
      stack.ready = true;
      const why = problems.find(Boolean);
      if (!why) return;
      // Without the fit nothing can be accepted; without the bare photo only holding Space is gone.
      stack.blind = Boolean(problems[problems.length - 1]);
      stack.node.append(el("p.rv-missing", {}, el("b", {}, stack.blind ? "There is no picture of this fit." : "The bare photo cannot be shown."), ` ${why}`));
    });
    REVIEW.stacks.set(item.lease, stack);
    REVIEW.ui.frame.append(stack.node);
    return stack;
  }

  function loadAhead() {
    for (const item of REVIEW.items.slice(0, 3)) stackOf(item);
    const wanted = new Set(REVIEW.items.map((i) => i.lease));
    const shown = current();
    if (shown) wanted.add(shown.lease);
    for (const [lease, stack] of REVIEW.stacks) {
      if (!wanted.has(lease)) { stack.node.remove(); REVIEW.stacks.delete(lease); }
    }
  }

  async function drawPoints(item) {
    const stack = stackOf(item);
    if (!stack.points) {
      stack.points = "asked";
      try {
        const response = await fetch(fileUrl(item, "points.json"));
        if (!response.ok) throw new Error();
        stack.points = (await response.json()).points;
      } catch { stack.points = null; return; }
    }
    if (stack.points === "asked" || stack.svg.childNodes.length) return;
    const photo = stack.node.querySelector(".rv-fit");
    const w = photo.naturalWidth || 1, h = photo.naturalHeight || 1;
    stack.svg.setAttribute("viewBox", `0 0 ${w} ${h}`);
    const tall = (item.errors[0].pct && item.errors[0].px) ? 100 * item.errors[0].px / item.errors[0].pct : 400;
    const size = Math.max(w, h) / 512;
    for (const point of stack.points) {
      const [x, y] = [point.seen[0] * w, point.seen[1] * h];
      const share = point.px === null ? 0 : 100 * point.px / tall;
      const color = share < 1.5 ? "#31d17c" : share < 4 ? "#ffc233" : "#ff4d4d";
      const r = (point.part === "body" ? 3.2 : 1.5) * size;
      const group = svg("g");
      const title = svg("title");
      title.textContent = `${words(point.name)}: ${point.px === null ? "no error known" : point.px.toFixed(1) + " px"}`;
      group.append(title);
      if (point.model) {
        const [mx, my] = [point.model[0] * w, point.model[1] * h];
        group.append(svg("line", { x1: x, y1: y, x2: mx, y2: my, stroke: color, "stroke-width": 1.4 * size }));
        group.append(svg("circle", { cx: mx, cy: my, r: 0.55 * r, fill: color }));
      }
      group.append(svg("circle", { cx: x, cy: y, r, fill: "none", stroke: color, "stroke-width": 1.2 * size }));
      stack.svg.append(group);
    }
  }

  // --- what is shown ----------------------------------------------------------------------------

  function current() {
    if (REVIEW.tutorial) return REVIEW.tutorial.items[REVIEW.tutorial.at] || null;
    return REVIEW.looking ? REVIEW.looking.item : REVIEW.items[0] || null;
  }

  function defaultParts(item) {
    return new Set(item.errors.filter((e) => e.seen).map((e) => e.part));
  }

  const draft = { parts: new Set(), reasons: new Set(), comment: "" };
  const clock = { lease: "", active: 0, since: 0 };

  function setDraft(item, said) {
    draft.parts = said ? new Set(said.parts) : defaultParts(item);
    draft.reasons = new Set(said ? said.reasons : []);
    draft.comment = said ? said.comment : "";
    REVIEW.ui.comment.value = draft.comment;
    REVIEW.rejecting = Boolean(said && said.verdict === "reject");
  }

  async function show() {
    const { ui } = REVIEW;
    const item = current();
    ui.root.classList.toggle("empty", !item);
    for (const [lease, stack] of REVIEW.stacks) stack.node.classList.toggle("on", Boolean(item) && lease === item.lease);
    if (REVIEW.tutorial && !item) return;
    if (!item) {
      tellEmpty();
      ui.root.classList.remove("busy");
      return;
    }
    const stack = stackOf(item);
    for (const other of REVIEW.stacks.values()) other.node.classList.toggle("on", other === stack);
    setDraft(item, REVIEW.looking ? REVIEW.looking.row : REVIEW.drafts.get(item.lease));
    REVIEW.view = "front";
    closeMesh();
    renderAll(item, stack);
    ui.root.classList.toggle("busy", !stack.ready);
    if (!stack.ready) await stack.loaded;
    if (current() !== item) return;
    ui.root.classList.remove("busy");
    clock.lease = item.lease; clock.active = 0; clock.since = document.hidden ? 0 : performance.now();
    if (REVIEW.keypoints) drawPoints(item);
    requestAnimationFrame(() => requestAnimationFrame(() => {
      REVIEW.shownAt = performance.now();
      REVIEW.shownLease = item.lease;
      if (REVIEW.decidedAt) {
        REVIEW.timings.push(REVIEW.shownAt - REVIEW.decidedAt);
        REVIEW.decidedAt = 0;
      }
    }));
  }

  /** Why there is no item: without a connection nobody knows what waits. */
  function tellEmpty() {
    const { ui } = REVIEW;
    const isCut = REVIEW.outbox.length > 0 && REVIEW.problem;
    ui.emptyTitle.textContent = isCut ? "No connection." :
      REVIEW.mode === "adjudicate" ? "No disagreements are waiting." : "Nothing is waiting for you.";
    ui.emptyText.textContent = isCut ? "What you decided is kept here and sent when the server answers; then more items come." :
      "New items appear when others finish, or when more fits are made.";
  }

  function renderAll(item, stack) {
    const { ui } = REVIEW;
    ui.thumbs.replaceChildren(...VIEWS.filter((v) => stack.thumbs.has(v)).map((view) =>
      el("button.rv-thumb", { title: VIEW_NAMES[view], onclick: () => setView(view) , type: "button" },
        stack.thumbs.get(view), el("span", {}, VIEW_NAMES[view]))));
    [...ui.thumbs.children].forEach((node, k) => { node.dataset.view = VIEWS.filter((v) => stack.thumbs.has(v))[k]; });
    ui.errors.replaceChildren(...item.errors.map((error) => {
      const share = error.pct === null ? null : error.pct;
      const level = share === null ? "" : share < 1.5 ? "ok" : share < 4 ? "mid" : "high";
      const bar = el("i", { className: level });
      bar.style.width = share === null ? "0" : `${Math.min(100, 100 * share / 6)}%`;
      return el("tr", { className: error.seen ? "" : "unseen" },
        el("th", { scope: "row" }, PART_NAMES[error.part]),
        el("td.bar", {}, el("span", {}, bar)),
        el("td", {}, error.px === null ? "not seen" : `${error.px.toFixed(1)} px`),
        el("td", {}, share === null ? "" : `${share.toFixed(1)} %`));
    }));
    ui.why.textContent = REVIEW.looking ? "your decision, looked at again" : item.why;
    ui.where.textContent = `${item.dataset} · ${item.image}${item.person ? ` · person ${item.person}` : ""}`;
    ui.where.title = ui.where.textContent;
    ui.status.textContent = item.status;
    ui.votes.replaceChildren(...(item.votes || []).map((vote) => el(`div.rv-vote.${vote.verdict}`, {},
      el("b", {}, vote.annotator), ` ${VERDICT_NAMES[vote.verdict].toLowerCase()}`,
      vote.reasons.length ? ` · ${vote.reasons.map(words).join(", ")}` : "",
      vote.comment ? el("q", {}, vote.comment) : null)));
    ui.votes.hidden = !(item.votes || []).length;
    ui.flags.replaceChildren(...REVIEW.me.parts.map((part) => {
      const seen = item.errors.find((e) => e.part === part)?.seen;
      const letter = Object.keys(PART_KEYS).find((k) => PART_KEYS[k] === part).toUpperCase();
      const node = el("button.rv-flag", { type: "button", onclick: () => toggleFlag(part),
        title: seen ? `${PART_NAMES[part]}: good or not` : `${PART_NAMES[part]} is not seen in the photo` },
        key(letter), PART_NAMES[part]);
      node.dataset.part = part;
      return node;
    }));
    renderState();
  }

  function renderState() {
    const { ui } = REVIEW;
    const item = current();
    ui.root.classList.toggle("rejecting", REVIEW.rejecting);
    ui.root.classList.toggle("looking", Boolean(REVIEW.looking));
    ui.root.classList.toggle("practising", Boolean(REVIEW.tutorial));
    ui.root.classList.toggle("points-on", REVIEW.keypoints && REVIEW.view === "front");
    ui.root.style.setProperty("--fit-opacity", REVIEW.opacity);
    ui.opacity.value = Math.round(100 * REVIEW.opacity);
    ui.pointsButton.setAttribute("aria-pressed", REVIEW.keypoints);
    for (const node of ui.flags.children) {
      node.setAttribute("aria-pressed", draft.parts.has(node.dataset.part));
    }
    for (const node of ui.reasons.children) {
      node.setAttribute("aria-pressed", draft.reasons.has(node.dataset.reason));
    }
    for (const node of ui.thumbs.children) node.classList.toggle("on", node.dataset.view === REVIEW.view);
    const stack = item && REVIEW.stacks.get(item.lease);
    if (stack) for (const layer of stack.node.children) layer.classList.toggle("on", layer.dataset.view === REVIEW.view);
    ui.viewName.textContent = VIEW_NAMES[REVIEW.view];
    ui.lookBar.hidden = !REVIEW.looking;
    if (REVIEW.looking) {
      ui.lookText.textContent = `${VERDICT_NAMES[REVIEW.looking.row.verdict]} ${ago(REVIEW.looking.row.at)}`;
    }
    if (REVIEW.tutorial) ui.why.textContent = `tutorial, ${REVIEW.tutorial.at + 1} of ${REVIEW.tutorial.items.length}`;
    ui.sendReject.textContent = draft.reasons.size ? `Reject: ${[...draft.reasons].map(words).join(", ")}` : "Reject without a reason";
  }

  function ago(at) {
    const s = Math.max(0, Date.now() / 1000 - at);
    if (s < 90) return "just now";
    if (s < 5400) return `${Math.round(s / 60)} min ago`;
    if (s < 129600) return `${Math.round(s / 3600)} h ago`;
    return new Date(1000 * at).toLocaleDateString();
  }

  function showSaving() {
    const { ui } = REVIEW;
    const count = REVIEW.outbox.length;
    const problem = count ? REVIEW.problem : "";
    ui.saved.className = `rv-saved ${problem ? "bad" : count ? "busy" : ""}`;
    ui.saved.textContent = problem ? `${count} kept here · no connection` : count ? `saving ${count}` : "saved";
    ui.saved.title = problem || "Decisions are kept in this browser until the server has them.";
    ui.count.textContent = `${REVIEW.me.done_today} today`;
    tellEmpty();
  }

  let toastTimer = 0;
  function toast(text, kind = "") {
    const { ui } = REVIEW;
    ui.toast.textContent = text;
    ui.toast.className = `rv-toast on ${kind}`;
    clearTimeout(toastTimer);
    toastTimer = setTimeout(() => { ui.toast.className = "rv-toast"; }, kind === "bad" ? 6000 : 1600);
  }

  // --- what somebody does -----------------------------------------------------------------------

  function decide(verdict) {
    const item = current();
    if (!item || REVIEW.ui.root.classList.contains("busy") || REVIEW.ui.root.classList.contains("dialog")) return;
    if (REVIEW.tutorial) { practise(verdict); return; }
    const stack = REVIEW.stacks.get(item.lease);
    if (!stack?.ready) return;
    if (stack.blind && verdict === "accept") { toast("Nobody can accept what is not to be seen: reject it (image bad), or say unsure.", "bad"); return; }
    const now = performance.now();
    const active = clock.active + (clock.since ? now - clock.since : 0);
    const decision = {
      lease: item.lease, decision_id: newId(), verdict,
      parts: verdict === "reject" && !REVIEW.flagsTouched ? [] : [...draft.parts],
      reasons: verdict === "accept" ? [] : [...draft.reasons],
      comment: draft.comment.trim(), seconds: Math.round(active) / 1000,
      guideline: REVIEW.me.guideline, revises: REVIEW.looking ? REVIEW.looking.row.decision_id : "",
      mode: REVIEW.mode, at: Date.now(),
    };
    REVIEW.outbox.push(decision);
    keep(decision);
    REVIEW.decidedAt = now;
    REVIEW.flagsTouched = false;
    REVIEW.undoable.push(decision.decision_id);
    if (REVIEW.looking) {
      REVIEW.looking = null;
    } else {
      REVIEW.items.shift();
      REVIEW.me.done_today += 1;
    }
    REVIEW.drafts.delete(item.lease);
    toast(verdict === "reject" && decision.reasons.length ? `Rejected: ${decision.reasons.map(words).join(", ")}` : VERDICT_NAMES[verdict], verdict);
    show();
    loadAhead();
    showSaving();
    flush();
  }

  async function undo() {
    if (REVIEW.tutorial || REVIEW.undoing) return;
    REVIEW.undoing = true;
    try {
      while (REVIEW.outbox.length) {  // what is on its way has to arrive first
        flush();
        await new Promise((done) => setTimeout(done, 30));
      }
      const rows = (await ask("history")).rows;
      const row = rows[0];
      if (!row) { toast("There is nothing to undo."); return; }
      const answer = await ask("undo", { decision_id: row.decision_id, new_id: newId() });
      REVIEW.looking = null;
      REVIEW.drafts.set(answer.item.lease, row);
      REVIEW.items = [answer.item, ...REVIEW.items.filter((i) => i.lease !== answer.item.lease)];
      REVIEW.me.done_today = Math.max(0, REVIEW.me.done_today - 1);
      toast(`Taken back: ${VERDICT_NAMES[row.verdict].toLowerCase()}`);
      showSaving();
      await show();
      loadAhead();
    } catch (failure) {
      toast(failure.message, "bad");
    } finally {
      REVIEW.undoing = false;
    }
  }

  function toggleFlag(part) {
    if (!current()) return;
    if (!draft.parts.delete(part)) draft.parts.add(part);
    REVIEW.flagsTouched = true;
    renderState();
  }
  function toggleReason(reason) {
    if (!current()) return;
    REVIEW.rejecting = true;
    if (!draft.reasons.delete(reason)) draft.reasons.add(reason);
    renderState();
  }
  function setView(view) {
    const stack = current() && REVIEW.stacks.get(current().lease);
    if (!stack || !stack.thumbs.has(view)) return;
    REVIEW.view = view;
    renderState();
  }
  function cycleView() {
    const stack = current() && REVIEW.stacks.get(current().lease);
    if (!stack) return;
    const views = VIEWS.filter((v) => stack.thumbs.has(v));
    setView(views[(views.indexOf(REVIEW.view) + 1) % views.length]);
  }
  function setOpacity(value) {
    REVIEW.opacity = Math.min(1, Math.max(0, value));
    renderState();
    saveSettings();
  }
  function togglePoints() {
    REVIEW.keypoints = !REVIEW.keypoints;
    if (REVIEW.keypoints && current()) drawPoints(current());
    renderState();
    saveSettings();
  }
  function setBare(on) { REVIEW.ui.root.classList.toggle("bare", on); }

  let settingsTimer = 0;
  function saveSettings() {
    clearTimeout(settingsTimer);
    settingsTimer = setTimeout(() => ask("settings", {
      opacity: REVIEW.opacity, keypoints: REVIEW.keypoints, theme: REVIEW.theme || "",
    }).catch(() => {}), 600);
  }
  function setTheme(theme) {
    REVIEW.theme = theme;
    const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.body.classList.toggle("dark", dark);
  }

  // --- history ----------------------------------------------------------------------------------

  async function openHistory() {
    try {
      const { rows } = await ask("history");
      REVIEW.rows = rows;
      const { ui } = REVIEW;
      ui.historyList.replaceChildren(...rows.map((row, k) => el(`button.rv-row.${row.verdict}`,
        { type: "button", onclick: () => lookAt(k) },
        el("img", { src: `${REVIEW.base}/api/file/${row.lease}/front.jpg`, loading: "lazy", alt: "" }),
        el("span", {}, el("b", {}, VERDICT_NAMES[row.verdict]), el("small", {}, ago(row.at)),
          row.reasons.length ? el("em", {}, row.reasons.map(words).join(", ")) : null,
          row.comment ? el("q", {}, row.comment) : null,
          el("small", {}, row.image)))));
      if (!rows.length) ui.historyList.append(el("p.soft", {}, "No decisions yet."));
      openPanel("history");
    } catch (failure) { toast(failure.message, "bad"); }
  }

  async function lookAt(k) {
    if (!REVIEW.rows || !REVIEW.rows[k]) return;
    const row = REVIEW.rows[k];
    try {
      const { item } = await ask(`item/${row.lease}`);
      closePanel();
      REVIEW.looking = { row, item, at: k };
      await show();
      loadAhead();
    } catch (failure) { toast(failure.message, "bad"); }
  }

  async function step(direction) {
    if (REVIEW.tutorial) return;
    if (!REVIEW.looking) {
      if (direction > 0) return;
      if (REVIEW.outbox.length) await flush();
      try { REVIEW.rows = (await ask("history")).rows; } catch { return; }
      await lookAt(0);
      return;
    }
    const next = REVIEW.looking.at - direction;
    if (next < 0) backToQueue(); else await lookAt(next);
  }
  function backToQueue() {
    REVIEW.looking = null;
    show();
    loadAhead();
  }

  async function makeGold(inTutorial) {
    const { row } = REVIEW.looking;
    try {
      await ask("gold", { lease: row.lease, note: draft.comment.trim(), in_tutorial: inTutorial });
      toast(inTutorial ? "In the tutorial" : "A gold item", "accept");
    } catch (failure) { toast(failure.message, "bad"); }
  }

  // --- tutorial ---------------------------------------------------------------------------------

  async function startTutorial() {
    const { items } = await ask("tutorial");
    if (!items.length) return false;
    REVIEW.tutorial = { items, at: 0, right: 0 };
    await show();
    items.slice(0, 3).forEach(stackOf);
    return true;
  }

  async function practise(verdict) {
    const { ui, tutorial } = REVIEW;
    const item = current();
    try {
      const answer = await ask("tutorial", { number: item.number, verdict });
      tutorial.right += answer.right ? 1 : 0;
      ui.verdictTitle.textContent = answer.right ? "Right." : `We would have said: ${answer.verdict}.`;
      ui.verdictTitle.className = answer.right ? "good" : "bad";
      ui.verdictNote.textContent = answer.note || "";
      ui.verdictReasons.textContent = answer.reasons.length ? `Reasons: ${answer.reasons.map(words).join(", ")}` : "";
      openDialog("verdict");
    } catch (failure) { toast(failure.message, "bad"); }
  }

  async function nextOfTutorial() {
    const { ui, tutorial } = REVIEW;
    closeDialogs();
    tutorial.at += 1;
    if (tutorial.at < tutorial.items.length) {
      await show();
      tutorial.items.slice(tutorial.at, tutorial.at + 3).forEach(stackOf);
      return;
    }
    await ask("seen", { tutorial: true }).catch(() => {});
    ui.doneText.textContent = `${tutorial.right} of ${tutorial.items.length} as we would have said it. From here on it counts.`;
    REVIEW.tutorial = null;
    openDialog("done");
    refill();
    show();
  }

  // --- panels and dialogs -----------------------------------------------------------------------

  function openPanel(name) {
    closePanel();
    document.body.classList.add("rv-panel-open");
    if (name === "guide") document.body.classList.add("rv-guide-open");
    REVIEW.ui.history.hidden = name !== "history";
    REVIEW.panel = name;
  }
  function closePanel() {
    document.body.classList.remove("rv-panel-open", "rv-guide-open");
    REVIEW.ui.history.hidden = true;
    if (REVIEW.panel === "guide" && REVIEW.me.guideline_seen !== REVIEW.me.guideline) {
      REVIEW.me.guideline_seen = REVIEW.me.guideline;
      REVIEW.ui.banner.hidden = true;
      ask("seen", { guideline: REVIEW.me.guideline }).catch(() => {});
    }
    REVIEW.panel = "";
  }
  const togglePanel = (name) => {
    if (REVIEW.panel === name) closePanel();
    else if (name === "history") openHistory();
    else openPanel(name);
  };
  function openDialog(name) {
    for (const [k, node] of Object.entries(REVIEW.ui.dialogs)) node.hidden = k !== name;
    REVIEW.ui.root.classList.add("dialog");
    REVIEW.dialog = name;
    REVIEW.ui.dialogs[name].querySelector("button.main")?.focus({ preventScroll: true });
  }
  function closeDialogs() {
    for (const node of Object.values(REVIEW.ui.dialogs)) node.hidden = true;
    REVIEW.ui.root.classList.remove("dialog");
    REVIEW.dialog = "";
  }

  function openMesh() {
    const item = current();
    if (!item || item.lease.startsWith("tutorial")) return;
    if (document.body.classList.contains("rv-mesh-open")) { closeMesh(); return; }
    document.body.classList.add("rv-mesh-open");
    REVIEW.trigger("mesh", { lease: item.lease });
  }
  function closeMesh() { document.body.classList.remove("rv-mesh-open"); }

  // --- keys -------------------------------------------------------------------------------------

  function onKey(event) {
    if (!REVIEW.me || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!REVIEW.ui.root.getClientRects().length) return;
    const inText = event.target.closest?.("input:not([type=range]), textarea, [contenteditable]");
    if (inText) {
      if (event.key === "Escape" || event.key === "Enter") { event.target.blur(); event.preventDefault(); }
      return;
    }
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (name === " ") { event.preventDefault(); setBare(true); return; }
    if (event.repeat) return;
    if (REVIEW.dialog) {
      if (name === "Enter" || name === "Escape") {
        event.preventDefault();
        REVIEW.ui.dialogs[REVIEW.dialog].querySelector("button.main").click();
      } else if (name === "?" && REVIEW.dialog === "help") closeDialogs();
      return;
    }
    if (name === "Escape") {
      if (document.body.classList.contains("rv-mesh-open")) closeMesh();
      else if (REVIEW.panel) closePanel();
      else if (REVIEW.rejecting) { REVIEW.rejecting = false; draft.reasons.clear(); renderState(); }
      else if (REVIEW.looking) backToQueue();
      return;
    }
    if (REVIEW.panel && !["g", "h"].includes(name)) return;
    const actions = {
      a: () => decide("accept"),
      Enter: () => decide(REVIEW.rejecting ? "reject" : "accept"),
      r: () => { REVIEW.rejecting = !REVIEW.rejecting; renderState(); },
      s: () => decide("unsure"),
      u: undo,
      v: cycleView,
      p: togglePoints,
      m: openMesh,
      c: () => REVIEW.ui.comment.focus(),
      h: () => togglePanel("history"),
      g: () => togglePanel("guide"),
      "?": () => openDialog("help"),
      "+": () => setOpacity(REVIEW.opacity + 0.1),
      "=": () => setOpacity(REVIEW.opacity + 0.1),
      "-": () => setOpacity(REVIEW.opacity - 0.1),
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
    };
    if (PART_KEYS[name]) { event.preventDefault(); toggleFlag(PART_KEYS[name]); return; }
    if (/^[1-9]$/.test(name)) { event.preventDefault(); toggleReason(REVIEW.me.reasons[Number(name) - 1]); return; }
    if (actions[name]) { event.preventDefault(); actions[name](); }
  }

  // --- building the page ------------------------------------------------------------------------

  function button(letter, label, classes, onclick, title) {
    return el(`button.${classes}`, { type: "button", onclick, title: title || label },
      letter ? key(letter) : null, el("span", {}, label));
  }

  function dialog(name, title, ...content) {
    return el(`div.rv-dialog.rv-dialog-${name}`, { hidden: true, role: "dialog", "aria-label": title, "aria-modal": "true" },
      el("div.rv-card", {}, el("h2", {}, title), ...content));
  }

  function build(root) {
    const { me } = REVIEW;
    const ui = { root };
    REVIEW.ui = ui;
    ui.saved = el("span.rv-saved", { role: "status" });
    ui.count = el("span.rv-count");
    ui.banner = el("div.rv-banner", { hidden: true });
    const may = (role) => ["annotator", "adjudicator", "owner"].indexOf(me.role) >= ["annotator", "adjudicator", "owner"].indexOf(role);
    const logout = el("form", { method: "post", action: `${REVIEW.base}/logout` }, el("button", {}, "Log out"));
    const menu = el("details.rv-menu", {}, el("summary", {}, el("span.rv-name", {}, me.name)),
      el("div", {},
        el("small", {}, me.role),
        may("adjudicator") ? el("a", { href: REVIEW.mode === "adjudicate" ? "?" : "?mode=adjudicate" },
          REVIEW.mode === "adjudicate" ? "Ordinary queue" : "Only disagreements") : null,
        may("owner") ? el("a", { href: `${REVIEW.base}/owner/` }, "Owner's page") : null,
        me.tutorial_items ? el("button", { type: "button", onclick: () => { menu.open = false; startTutorial(); } }, "Tutorial") : null,
        el("button", { type: "button", onclick: () => { setTheme(document.body.classList.contains("dark") ? "light" : "dark"); saveSettings(); } }, "Light or dark"),
        el("a", { href: `${REVIEW.base}/password` }, "New password"),
        logout));
    const top = el("header.rv-top", {},
      el("span.rv-brand", {}, el("img", { src: `${REVIEW.base}/static/icon.svg`, alt: "", width: 22, height: 22 }),
        el("b", {}, REVIEW.mode === "adjudicate" ? "Disagreements" : "Fit review")),
      ui.count, ui.saved, el("span.rv-grow"),
      button("G", "Guidelines", "rv-link", () => togglePanel("guide")),
      button("H", "History", "rv-link", () => togglePanel("history")),
      button("?", "Keys", "rv-link", () => openDialog("help")),
      menu);

    ui.frame = el("div.rv-frame", { tabIndex: -1 });
    ui.viewName = el("span.rv-viewname");
    ui.emptyTitle = el("b");
    ui.emptyText = el("p");
    ui.empty = el("div.rv-empty", {}, ui.emptyTitle, ui.emptyText,
      button("", "Look again", "rv-plain", () => refill()));
    ui.opacity = el("input", { type: "range", min: 0, max: 100, value: 100, "aria-label": "Opacity of the fit",
      oninput: () => setOpacity(Number(ui.opacity.value) / 100) });
    ui.pointsButton = button("P", "Keypoints", "rv-tool", togglePoints);
    ui.lookText = el("span");
    ui.lookBar = el("div.rv-look", { hidden: true }, ui.lookText,
      button("←", "Older", "rv-plain", () => step(-1)), button("→", "Newer", "rv-plain", () => step(1)),
      button("Esc", "Back to the queue", "rv-plain", backToQueue),
      may("owner") ? button("", "Make gold", "rv-plain", () => makeGold(false), "Others are asked this, to measure them") : null,
      may("owner") ? button("", "To the tutorial", "rv-plain", () => makeGold(true), "Newcomers practise on it; your comment is shown with the answer") : null);
    const bareButton = button("Space", "Hold: bare photo", "rv-tool.rv-hold", () => {});
    const stage = el("section.rv-stage", {},
      el("div.rv-view", {}, ui.frame, ui.viewName, el("div.rv-spinner", { "aria-hidden": "true" }), ui.empty, ui.lookBar),
      el("div.rv-tools", {}, el("label.rv-slide", {}, el("span", {}, "Fit"), ui.opacity), bareButton,
        ui.pointsButton, button("V", "Next view", "rv-tool", cycleView), button("M", "3D", "rv-tool", openMesh)));
    for (const node of [ui.frame, bareButton]) {
      node.addEventListener("pointerdown", (event) => { if (event.button === 0) { setBare(true); } });
      for (const end of ["pointerup", "pointerleave", "pointercancel"]) node.addEventListener(end, () => setBare(false));
      node.addEventListener("contextmenu", (event) => { if (event.pointerType !== "mouse") event.preventDefault(); });
    }

    ui.thumbs = el("div.rv-thumbs");
    ui.errors = el("tbody");
    ui.why = el("p.rv-why");
    ui.where = el("p.rv-where");
    ui.status = el("p.rv-status");
    ui.votes = el("div.rv-votes", { hidden: true });
    const side = el("aside.rv-side", {}, ui.votes, ui.thumbs,
      el("div.rv-facts", {},
        el("table.rv-errors", {}, el("caption", {}, "Error by part: pixels, and of the person's height"), ui.errors),
        el("p.rv-label", {}, "Why this one"), ui.why, ui.status, ui.where));

    ui.flags = el("div.rv-flags", { role: "group", "aria-label": "Good parts" });
    ui.reasons = el("div.rv-reasons", { role: "group", "aria-label": "Reasons" },
      ...me.reasons.map((reason, k) => {
        const node = el("button.rv-reason", { type: "button", onclick: () => toggleReason(reason) },
          k < 9 ? key(String(k + 1)) : null, el("span", {}, words(reason)));
        node.dataset.reason = reason;
        return node;
      }));
    ui.comment = el("input.rv-comment", { placeholder: "Comment", maxLength: 2000, "aria-label": "Comment",
      oninput: () => { draft.comment = ui.comment.value; } });
    ui.sendReject = el("span");
    const bar = el("footer.rv-bar", {},
      el("div.rv-rejectbox", {}, ui.reasons,
        el("div.rv-rejectend", {},
          button("Esc", "Cancel", "rv-plain", () => { REVIEW.rejecting = false; draft.reasons.clear(); renderState(); }),
          el("button.rv-act.reject", { type: "button", onclick: () => decide("reject") }, key("Enter"), ui.sendReject))),
      el("div.rv-row1", {}, el("span.rv-label", {}, "Good parts"), ui.flags, el("label.rv-commentbox", {}, key("C"), ui.comment)),
      el("div.rv-row2", {},
        button("U", "Undo", "rv-act.undo", undo),
        button("R", "Reject", "rv-act.reject", () => { if (REVIEW.rejecting) decide("reject"); else { REVIEW.rejecting = true; renderState(); } }),
        button("S", "Unsure", "rv-act.unsure", () => decide("unsure")),
        button("A", "Accept", "rv-act.accept", () => decide("accept"))));

    ui.historyList = el("div.rv-list");
    ui.history = el("div.rv-panel", { hidden: true, role: "complementary", "aria-label": "History" },
      el("header", {}, el("h2", {}, "Your decisions"), button("Esc", "Close", "rv-plain", closePanel)), ui.historyList);
    ui.verdictTitle = el("h3"); ui.verdictNote = el("p"); ui.verdictReasons = el("p.soft");
    ui.doneText = el("p");
    ui.dialogs = {
      help: dialog("help", "Keys", el("table.rv-keys", {}, ...HELP.map(([k, what]) =>
        el("tr", {}, el("td", {}, ...k.split("  ").filter((t) => t.trim()).map((t) => (t.trim() === "or" ? " or " : key(t.trim())))), el("td", {}, what)))),
        el("p.soft", {}, "By touch: hold the photo to see it bare; tap a small picture to see it large."),
        el("button.main", { type: "button", onclick: closeDialogs }, "Close")),
      welcome: dialog("welcome", `Welcome, ${me.name}.`,
        el("p", {}, "You will see photos with a fitted body over them. Say whether the body is right."),
        el("p", {}, me.tutorial_items
          ? `First some guidelines, then ${me.tutorial_items} items to practise on, with the answers.`
          : "First some guidelines; you can open them again at any time with G."),
        el("button.main", { type: "button", onclick: () => { closeDialogs(); openPanel("guide"); REVIEW.afterGuide = true; } }, "Read the guidelines")),
      verdict: dialog("verdict", "Tutorial", ui.verdictTitle, ui.verdictNote, ui.verdictReasons,
        el("button.main", { type: "button", onclick: nextOfTutorial }, key("Enter"), " Next")),
      done: dialog("done", "That was the tutorial.", ui.doneText,
        el("button.main", { type: "button", onclick: closeDialogs }, "Begin")),
    };
    ui.toast = el("div.rv-toast", { role: "status" });
    root.replaceChildren(top, ui.banner, el("main.rv-main", {}, stage, side), bar, ui.history,
      ...Object.values(ui.dialogs), ui.toast);
    root.classList.add("rv");
    document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
  }

  function afterGuide() {
    if (!REVIEW.afterGuide) return;
    REVIEW.afterGuide = false;
    if (!REVIEW.me.tutorial_done && REVIEW.me.tutorial_items) startTutorial();
    else if (!REVIEW.me.tutorial_done) ask("seen", { tutorial: true }).catch(() => {});
  }

  /** Begin. Called once by the component that Gradio put into the page. */
  REVIEW.start = async (root, trigger) => {
    REVIEW.base = pathBase();
    REVIEW.trigger = trigger;
    const first = REVIEW.prefetched || { me: ask("me"), next: ask("next", { mode: REVIEW.mode }) };
    try {
      REVIEW.me = await first.me;
    } catch (failure) {
      root.textContent = failure.message;
      return;
    }
    REVIEW.opacity = REVIEW.me.settings.opacity ?? 1;
    REVIEW.keypoints = REVIEW.me.settings.keypoints ?? false;
    setTheme(REVIEW.me.settings.theme || "");
    build(root);
    REVIEW.outbox = readOutbox();
    REVIEW.me.done_today += REVIEW.outbox.length;
    showSaving();
    document.addEventListener("keydown", onKey);
    document.addEventListener("keyup", (event) => { if (event.key === " ") setBare(false); });
    window.addEventListener("blur", () => setBare(false));
    window.addEventListener("online", flush);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) { if (clock.since) clock.active += performance.now() - clock.since; clock.since = 0; }
      else clock.since = performance.now();
    });
    // On the document: Gradio may draw its buttons later than this, and anew.
    document.addEventListener("click", (event) => {
      if (event.target.closest?.("#guide-close")) { closePanel(); afterGuide(); }
      if (event.target.closest?.("#mesh-close")) closeMesh();
    });
    document.addEventListener("keyup", (event) => {
      if ((event.key === "Escape" || event.key === "g") && !REVIEW.panel) afterGuide();
    });
    try {
      const { items } = await first.next;
      if (REVIEW.outbox.length) flush();
      merge(items);
      if (!REVIEW.items.length) show();
    } catch (failure) {
      if (REVIEW.outbox.length) flush();
      toast(failure.message, "bad");
      setTimeout(refill, 2000);
    }
    if (!REVIEW.me.tutorial_done) openDialog("welcome");
    else if (REVIEW.me.guideline_seen !== REVIEW.me.guideline) {
      REVIEW.ui.banner.replaceChildren(REVIEW.me.guideline_seen ? "The guidelines have changed. " : "There are guidelines. ",
        el("button.rv-plain", { type: "button", onclick: () => openPanel("guide") }, "Read them"));
      REVIEW.ui.banner.hidden = false;
    }
    // Leases are kept alive; a page without an item sees that there is something again.
    let quiet = 0;
    setInterval(() => {
      quiet += 1;
      if (document.hidden || REVIEW.tutorial || (REVIEW.items.length && quiet < 8)) return;
      quiet = 0;
      ask("next", { mode: REVIEW.mode }).then((a) => merge(a.items)).catch(() => {});
    }, 30000);
  };

  // Asked for before Gradio has drawn its frame.
  REVIEW.base = pathBase();
  REVIEW.prefetched = { me: ask("me"), next: ask("next", { mode: REVIEW.mode }) };
  REVIEW.prefetched.me.catch(() => {});
  REVIEW.prefetched.next.catch(() => {});
})();
