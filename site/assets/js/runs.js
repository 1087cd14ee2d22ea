// At home, where `make ui` shows the runs, their links lead there; published, to the table of jobs.
document$.subscribe(() => {
  if (!["localhost", "127.0.0.1", ""].includes(location.hostname)) return;
  for (const link of document.querySelectorAll("a.run")) link.href = `http://127.0.0.1:5000/#/runs/${link.dataset.run}`;
});
