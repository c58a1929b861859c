"""A page to look at the sandbox's objects and change them by hand."""

PAGE = """<!doctype html><meta charset=utf-8><title>Stripe sandbox</title>
<style>body{font:15px system-ui;margin:2rem;max-width:70rem}td,th{padding:.2rem .6rem;text-align:left}
button{margin-right:.4rem}code{background:#eee;padding:0 .2rem}</style>
<h1>Stripe sandbox</h1>
<p>Each change is an event in <code>/v1/events</code>, and a webhook to the endpoints.</p>
<p><button onclick="add()">New customer</button><button onclick="forward()">A day later</button>
<button onclick="limit()">Rate limit for five requests</button></p>
<table id=rows></table>
<script>
const key={authorization:'Bearer sk_test_sandbox'};
const post=(path,body)=>fetch(path,{method:'POST',headers:key,body:new URLSearchParams(body||{})}).then(load);
const tell=(what,body)=>fetch('/_sandbox/'+what,{method:'POST',body:JSON.stringify(body)}).then(load);
const add=()=>post('/v1/customers',{name:'Customer '+Math.floor(Math.random()*1000)});
const forward=()=>tell('clock',{advance:86400});
const limit=()=>tell('faults',{kind:'rate_limit',times:5});
const rename=id=>{const name=prompt('Name');if(name)post('/v1/customers/'+id,{name})};
const remove=id=>fetch('/v1/customers/'+id,{method:'DELETE',headers:key}).then(load);
const cell=text=>{const td=document.createElement('td');td.textContent=text;return td};
async function load(){
  const all=await(await fetch('/_sandbox/objects')).json();
  const table=document.getElementById('rows');table.replaceChildren();
  for(const [kind,rows] of Object.entries(all))for(const row of rows){
    const tr=document.createElement('tr');
    tr.append(cell(kind),cell(row.id),cell(row.name||row.description||''));
    if(kind==='customer'){
      const td=document.createElement('td');
      for(const [text,act] of [['Rename',()=>rename(row.id)],['Delete',()=>remove(row.id)]]){
        const b=document.createElement('button');b.textContent=text;b.onclick=act;td.append(b)}
      tr.append(td)}
    table.append(tr)}
}
load();
</script>
"""
