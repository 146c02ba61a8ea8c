"use strict";
(() => {
  const seconds = 5, title = document.title, own = document.scripts[0].text;
  let heard = new Date(), timer;

  // Changes what differs and nothing else, so that focus, scrolling and selection stay.
  const patch = (to, from) => {
    if (to.nodeName !== from.nodeName) return to.replaceWith(document.importNode(from, true));
    if (to.nodeType !== Node.ELEMENT_NODE) {
      if (to.data !== from.data) to.data = from.data;
      return;
    }
    for (const { name } of [...to.attributes]) if (!from.hasAttribute(name)) to.removeAttribute(name);
    for (const { name, value } of from.attributes) {
      if (to.getAttribute(name) !== value) to.setAttribute(name, value);
    }
    const old = [...to.childNodes], fresh = [...from.childNodes];
    fresh.forEach((each, at) => at < old.length ? patch(old[at], each) : to.append(document.importNode(each, true)));
    old.slice(fresh.length).forEach(each => each.remove());
  };

  const stale = why => {
    const text = `No answer from the daemon since ${heard.toTimeString().slice(0, 8)}: this page is old. ${why}`;
    const notice = document.getElementById("stale");
    if (notice.textContent !== text) notice.textContent = text;
    document.body.className = "old";
    document.title = `No answer: ${title}`;
  };

  const look = async () => {
    clearTimeout(timer);
    if (document.hidden) return; // visibilitychange looks again
    try {
      const answer = await fetch("", { cache: "no-store", signal: AbortSignal.timeout(2000 * seconds) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (!answer.ok) stale(`It answers with status ${answer.status}.`);
      else if (page.scripts[0]?.text !== own) return location.reload(); // another version
      else {
        heard = new Date();
        document.body.className = "";
        document.title = page.title;
        for (const part of ["header", "main"]) patch(document.querySelector(part), page.querySelector(part));
      }
    } catch {
      stale("");
    }
    timer = setTimeout(look, 1000 * seconds);
  };

  document.addEventListener("visibilitychange", look);
  timer = setTimeout(look, 1000 * seconds);
})();
