// Says that the token was wrong, and takes the theme of the page; the form itself needs no script.
import "./theme.js";

document.getElementById("wrong").hidden = location.search !== "?wrong";
