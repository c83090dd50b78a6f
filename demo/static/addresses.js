() => {
  // Every tab has an address, #photo or #about: it can be sent to somebody, and Back leads to the tab before.
  const FIRST = "live";
  const named = () => location.hash.slice(1) || FIRST;
  const follow = () => document.querySelector(`#tabs [role=tab][data-tab-id="${CSS.escape(named())}"]`)?.click();
  document.addEventListener("click", ({ target }) => {
    const tab = target.closest?.("#tabs [role=tab]")?.dataset.tabId;
    if (tab && tab !== named()) history.pushState(null, "", `${location.pathname}${location.search}#${tab}`);
  });
  addEventListener("popstate", follow);
  if (location.hash) follow();
}
