"""A page to look at the org's records and change them by hand."""

PAGE = """<!doctype html><meta charset=utf-8><title>Salesforce sandbox</title>
<style>body{font:15px system-ui;margin:2rem;max-width:70rem}td,th{padding:.2rem .6rem;text-align:left}
button{margin-right:.4rem}code{background:#eee;padding:0 .2rem}</style>
<h1>Salesforce sandbox</h1>
<p>Each change is an event in the Pub/Sub API.</p>
<p><button onclick="add()">New account</button><button onclick="tell('overflow','POST',{object:'Account'})">Overflow</button>
<button onclick="tell('tokens','DELETE')">Expire tokens</button><button onclick="tell('migrate','POST')">Move the org</button>
<button onclick="tell('clock','POST',{advance:86400})">A day later</button></p>
<table id=rows></table>
<script>
const tell=(what,method,body)=>fetch('/_sandbox/'+what,{method,body:JSON.stringify(body||{})}).then(load);
const add=()=>tell('records','POST',{object:'Account',fields:{Name:'Account '+Math.floor(Math.random()*1000)}});
const rename=id=>{const name=prompt('Name');if(name)tell('records','PATCH',{object:'Account',id,fields:{Name:name}})};
const remove=(object,id)=>tell('records','DELETE',{object,id});
const gap=(object,id)=>tell('gap','POST',{object,ids:[id]});
const cell=text=>{const td=document.createElement('td');td.textContent=text;return td};
async function load(){
  const all=await(await fetch('/_sandbox/objects')).json();
  const table=document.getElementById('rows');table.replaceChildren();
  for(const [kind,rows] of Object.entries(all))for(const row of rows){
    const tr=document.createElement('tr');
    tr.append(cell(kind),cell(row.Id),cell(row.Name||row.Subject||''));
    const td=document.createElement('td');
    const acts=[['Delete',()=>remove(kind,row.Id)],['Gap',()=>gap(kind,row.Id)]];
    if(kind==='Account')acts.unshift(['Rename',()=>rename(row.Id)]);
    for(const [text,act] of acts){const b=document.createElement('button');b.textContent=text;b.onclick=act;td.append(b)}
    tr.append(td);table.append(tr)}
}
load();
</script>
"""
