// Asks for this page again and takes its board. Whether figures are too old is told by the clock and
// not by counting timers, which a television that sleeps halts.
(function () {
  "use strict";
  var seen = Date.now(), asked = seen, asking = false;

  function board() { return document.getElementById("board"); }

  function show(stale) {
    var notice = document.getElementById("stale");
    if (stale && notice.hidden) {
      document.getElementById("since").textContent = board().dataset.time;
    }
    notice.hidden = !stale;
    board().hidden = stale;
  }

  function take(text) {
    var fresh = new DOMParser().parseFromString(text, "text/html").getElementById("board");
    if (fresh.dataset.build !== board().dataset.build) { location.reload(); return; }
    board().replaceWith(document.adoptNode(fresh));
    seen = Date.now();
    show(false);
  }

  function look() {
    var limit = new AbortController();
    var timer = setTimeout(function () { limit.abort(); }, 4500);
    asking = true;
    asked = Date.now();
    fetch(location.href, { cache: "no-store", signal: limit.signal }).then(function (answer) {
      if (!answer.ok) { throw new Error(answer.status); }
      return answer.text();
    }).then(take).catch(function () { /* the clock tells */ }).then(function () {
      clearTimeout(timer);
      asking = false;
    });
  }

  setInterval(function () {
    var now = Date.now(), times = board().dataset;
    show(now - seen > times.stale * 1000);
    if (!asking && now - asked >= times.refresh * 1000) { look(); }
  }, 500);
})();
