// Says that the token was wrong; the form itself needs no script.
document.getElementById("wrong").hidden = location.search !== "?wrong";
